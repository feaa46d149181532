package syncclient_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"disksync/api"
	"disksync/syncclient"
)

// TestHurry: who waits for the line can be told to try at once, also while an attempt is made; who was told to wait by the Synchronizer, or
// has another reason, waits.
func TestHurry(t *testing.T) {
	line := &syncclient.LineError{Err: io.ErrUnexpectedEOF}
	synctest.Test(t, func(t *testing.T) {
		var h syncclient.Hurry
		h.Now() // nobody waits
		ctx := syncclient.WithHurry(t.Context(), &h)
		var b syncclient.Backoff
		took := func(err error, hurry time.Duration) time.Duration {
			start := time.Now()
			if hurry > 0 {
				time.AfterFunc(hurry, h.Now)
			}
			if err := b.Wait(ctx, err); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		for range 20 {
			took(line, 0)
		}
		if d := took(line, 0); d < time.Minute {
			t.Fatalf("a pause of %v when nobody is in a hurry", d)
		}
		if d := took(line, time.Second); d != time.Second {
			t.Errorf("in a hurry after a second: %v", d)
		}
		if d := took(line, 0); d < 250*time.Millisecond || d > 500*time.Millisecond {
			t.Errorf("the pause after that is %v", d)
		}
		h.Now() // in the middle of an attempt
		if d := took(line, 0); d != 0 {
			t.Errorf("in a hurry before the pause began: %v", d)
		}
		for range 20 {
			took(line, 0)
		}
		busy := &syncclient.BusyError{Err: &api.Error{Code: api.CodeBusy}, RetryAfter: time.Hour}
		if d := took(busy, time.Second); d != time.Hour {
			t.Errorf("the server asked for an hour, and the pause is %v", d)
		}
		took(line, 0) // that hurry counts for the line
		for range 20 {
			took(line, 0)
		}
		if d := took(errors.New("another"), time.Second); d < time.Minute {
			t.Errorf("of another error the pause is %v", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var b syncclient.Backoff
		start := time.Now()
		if err := b.Wait(t.Context(), line); err != nil || time.Since(start) < 250*time.Millisecond {
			t.Errorf("without a Hurry: %v, after %v", err, time.Since(start))
		}
	})
}
