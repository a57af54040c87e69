package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	gen "github.com/osquery/osquery-go/gen/osquery"
)

// dialEvery is the interval at which dial tries to connect to osquery.
const dialEvery = 20 * time.Millisecond

// A client calls osquery over a connection of its own. Its methods must not be called
// concurrently. Each waits up to --timeout for osquery. osquery-go's client sleeps for
// 200 ms before it connects, and fails if the process gets no processor for 200 ms.
type client struct {
	*gen.ExtensionManagerClient
	conn net.Conn
}

// dial connects to osquery. If that fails, it tries again until patience is over or ctx
// ends.
func dial(ctx context.Context, c *config, patience time.Duration) (*client, error) {
	for deadline := time.Now().Add(patience); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		if err == nil {
			return newClient(conn, c.osqueryTimeout()), nil
		}
		if errors.Is(err, fs.ErrPermission) || !time.Now().Before(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialEvery):
		}
	}
}

func newClient(conn net.Conn, timeout time.Duration) *client {
	configuration := &thrift.TConfiguration{SocketTimeout: timeout}
	transport := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(conn, configuration), transportBuffer)
	return &client{gen.NewExtensionManagerClientFactory(transport, thrift.NewTBinaryProtocolFactoryConf(configuration)), conn}
}

func (c *client) close() { c.conn.Close() }
