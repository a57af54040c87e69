package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInventoryDoesNotWaitForAReadThatHangs(t *testing.T) {
	i := newInventory(nil).(*inventory)
	i.reading <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := i.Modules(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
