package osqueryhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

const (
	// thriftTimeout is --thrift_timeout: how long core waits for any response.
	thriftTimeout = 300 * time.Second
	// activeTimeout bounds the ping that precedes every call
	// (extensionPathActive, extensions.cpp).
	activeTimeout = 10 * time.Second
	// latency is the interval at which core checks whether an awaited socket exists
	// (kExtensionInitializeLatency, extensions.cpp).
	latency = 20 * time.Millisecond
)

// extensionSocket returns the path of an extension's socket: core's socket, a dot and
// the extension's number.
func (h *Host) extensionSocket(uuid osquery.ExtensionRouteUUID) string {
	return fmt.Sprintf("%s.%d", h.options.Socket, uuid)
}

// dial opens a connection to an extension. osquery opens a new one for each
// request. The connection breaks when ctx ends.
func dial(ctx context.Context, path string, timeout time.Duration) (*osquery.ExtensionClient, func(), error) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("open extension socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	hangUp := func() {
		stop()
		conn.Close()
	}
	configuration := &thrift.TConfiguration{SocketTimeout: timeout}
	transport := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(conn, configuration), transportBuffer)
	return osquery.NewExtensionClientFactory(transport, thrift.NewTBinaryProtocolFactoryConf(configuration)), hangUp, nil
}

// ping checks whether an extension responds.
func ping(ctx context.Context, path string, timeout time.Duration) error {
	client, hangUp, err := dial(ctx, path, timeout)
	if err != nil {
		return err
	}
	defer hangUp()
	status, err := client.Ping(ctx)
	if err != nil {
		return fmt.Errorf("ping extension: %w", err)
	}
	if status.Code != 0 {
		return fmt.Errorf("ping extension: status %d: %s", status.Code, status.Message)
	}
	return nil
}

// call sends a request to the provider of an item (RegistryInterface::call and
// callExtension).
func (w *worker) call(ctx context.Context, kind, item string, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	if !slices.Contains(registries, kind) {
		return failure("Unknown registry requested: " + kind)
	}
	uuid, known := w.registry.provider(kind, item)
	switch {
	case !known:
		return failure("Cannot call registry item: " + item)
	case uuid == 0:
		i := slices.IndexFunc(w.registry.core, func(t *coreTable) bool { return t.name == item })
		return w.registry.core[i].Call(ctx, request)
	default:
		return w.callExtension(ctx, uuid, kind, item, request)
	}
}

func (w *worker) callExtension(ctx context.Context, uuid osquery.ExtensionRouteUUID, kind, item string, request osquery.ExtensionPluginRequest) osquery.ExtensionResponse {
	path := w.host.extensionSocket(uuid)
	if err := ping(ctx, path, activeTimeout); err != nil {
		return failure("Extension socket not available: " + path)
	}
	client, hangUp, err := dial(ctx, path, thriftTimeout)
	if err != nil {
		return failure("Extension call failed: " + err.Error())
	}
	defer hangUp()
	response, err := client.Call(ctx, kind, item, request)
	if err != nil {
		return failure("Extension call failed: " + transportError(err))
	}
	return *response
}

// transportError returns an error in the words of Thrift's C++ library.
func transportError(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "THRIFT_EAGAIN (timed out)"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "No more data to read."
	}
	return err.Error()
}

func failure(message string) osquery.ExtensionResponse {
	return osquery.ExtensionResponse{Status: failed(refusal(message))}
}

// PingExtensions does one round of pings. An extension that fails one is removed at
// once with its tables, and is not notified (ExtensionManagerWatcher::watch,
// extensions.cpp). Only an extension that was never pinged before may take
// Options.Timeout to open its socket.
func (h *Host) PingExtensions(ctx context.Context) {
	registry := h.worker().registry
	extensions, _, _ := registry.snapshot()
	for _, uuid := range slices.Sorted(maps.Keys(extensions)) {
		path := h.extensionSocket(uuid)
		if registry.firstPing(uuid) {
			awaitSocket(ctx, path, h.options.Timeout)
		}
		if err := ping(ctx, path, thriftTimeout); err != nil && ctx.Err() == nil {
			registry.remove(uuid)
		}
	}
}

func awaitSocket(ctx context.Context, path string, timeout time.Duration) {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(latency) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
}

// DropExtension removes an extension's tables without notifying it, as core does after
// a failed ping. It reports whether the extension was registered.
func (h *Host) DropExtension(uuid osquery.ExtensionRouteUUID) bool {
	return h.worker().registry.remove(uuid)
}

// Extensions returns the registered extensions, by number.
func (h *Host) Extensions() map[osquery.ExtensionRouteUUID]osquery.InternalExtensionInfo {
	registered, _, _ := h.worker().registry.snapshot()
	list := map[osquery.ExtensionRouteUUID]osquery.InternalExtensionInfo{}
	for uuid, extension := range registered {
		list[uuid] = extension.info
	}
	return list
}

// WaitForTable waits until an extension has registered the table and responds on its
// socket. osquery itself does not wait for the response, so an earlier query fails in
// osquery and here.
func (h *Host) WaitForTable(ctx context.Context, table string) error {
	for {
		extensions, _, changed := h.worker().registry.snapshot()
		for uuid, extension := range extensions {
			if _, ok := extension.routes[tableRegistry][table]; !ok {
				continue
			}
			if err := ping(ctx, h.extensionSocket(uuid), activeTimeout); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for table %s: %w", table, ctx.Err())
		case <-changed:
		case <-time.After(latency):
		}
	}
}

// shutdownExtensions asks the extensions that are still registered to end
// (ExtensionManagerWatcher::start, extensions.cpp). It ignores extensions that do not
// respond.
func (h *Host) shutdownExtensions() {
	ctx, cancel := context.WithTimeout(context.Background(), h.options.Timeout)
	defer cancel()
	extensions, _, _ := h.worker().registry.snapshot()
	for uuid := range extensions {
		client, hangUp, err := dial(ctx, h.extensionSocket(uuid), h.options.Timeout)
		if err != nil {
			continue
		}
		_ = client.Shutdown(ctx)
		hangUp()
	}
}
