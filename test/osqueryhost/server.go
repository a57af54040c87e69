package osqueryhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

// transportBuffer is the size of the buffers in both directions. osquery's
// C++ transport has 512 bytes; the protocol on the wire is the same.
const transportBuffer = 64 << 10

// A server speaks the extension manager's protocol on a UNIX socket: binary protocol
// over a buffered transport, with one goroutine per connection
// (ExtensionRunnerInterface::connect, impl_thrift.cpp).
type server struct {
	listener  net.Listener
	processor thrift.TProcessor
	ctx       context.Context
	cancel    context.CancelFunc
	serving   sync.WaitGroup
}

func listen(path string, handler osquery.ExtensionManager) (*server, error) {
	if err := removeStaleSockets(path); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for extensions: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{
		listener:  listener,
		processor: osquery.NewExtensionManagerProcessor(handler),
		ctx:       ctx,
		cancel:    cancel,
	}
	s.serving.Go(s.accept)
	return s, nil
}

func removeStaleSockets(path string) error {
	stale, err := filepath.Glob(path + ".*")
	if err != nil {
		return fmt.Errorf("look for stale sockets: %w", err)
	}
	for _, file := range append(stale, path) {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale socket: %w", err)
		}
	}
	return nil
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // the listener was closed
		}
		s.serving.Go(func() { s.serve(conn) })
	}
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	transport := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(conn, nil), transportBuffer)
	protocol := thrift.NewTBinaryProtocolConf(transport, nil)
	for {
		// On an error the peer hung up or did not speak Thrift. In both cases the
		// connection ends, and the peer notices.
		if ok, err := s.processor.Process(s.ctx, protocol, protocol); err != nil || !ok {
			return
		}
	}
}

// close ends all connections and removes the socket. It may be called twice.
func (s *server) close() error {
	s.cancel()
	err := s.listener.Close()
	s.serving.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
