package deploy

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestHandOver: what is due is done at once when it was not for a while, else together with what becomes due within the time, and never
// after the end.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handOver
		var done []time.Duration
		begin := time.Now()
		soon := func() {
			t.Helper()
			err := h.soon(func() error {
				done = append(done, time.Since(begin))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		expect := func(want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.Equal(done, want) {
				t.Errorf("done at %v, want %v", done, want)
			}
		}
		soon()
		expect(0)
		for range 5 {
			soon()
		}
		expect(0)
		<-time.After(handOverEvery / 2)
		soon()
		expect(0)
		<-time.After(handOverEvery)
		expect(0, handOverEvery)
		<-time.After(handOverEvery)
		soon()
		last := 5 * handOverEvery / 2
		expect(0, handOverEvery, last)
		soon()
		h.close()
		soon()
		<-time.After(10 * handOverEvery)
		expect(0, handOverEvery, last)
	})
}
