package endpoint_test

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"disksync/config"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// until waits for a state of an operation that runs. The line is good all the time.
func (w *world) until(o *endpoint.Operation, what string, happened func(s endpoint.Status) bool) {
	w.Helper()
	testkit.Until(w, what, func() bool {
		s := o.Status()
		if s.State == endpoint.NetworkStalled || !s.Active {
			w.Fatalf("waiting for %s: %s, %v", what, s.State, s.Problem)
		}
		return happened(s)
	})
}

// isHeld reports whether nothing is fetched, and that the operation says why.
func isHeld(why string) func(endpoint.Status) bool {
	return func(s endpoint.Status) bool {
		return strings.Contains(s.Progress.Held, why) && s.State == endpoint.InProgress
	}
}

// asked counts what the Synchronizer is asked for of layers.
func (w *world) asked() <-chan string {
	asked := make(chan string, 1000)
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/layers/") {
			asked <- r.Header.Get("Range")
		}
		next.ServeHTTP(rw, r)
	})
	return asked
}

func TestDownloadLimit(t *testing.T) {
	want := lab.Disk(1, 2)
	w := ready(t, want)
	t.Run("off, and on again", func(t *testing.T) {
		w := w.in(t)
		w.set(config.DownloadLimit, "off")
		asked := w.asked()
		o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "a"})
		w.until(o, "nothing is fetched", isHeld("the setting download-limit is off"))
		if _, err := w.e.Offers(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "b"}); err != nil {
			t.Error(err)
		}
		n := len(asked) // for the plan
		w.set(config.DownloadLimit, "1G")
		s := w.wait(o)
		if s.Outcome() != nil || s.Progress.Held != "" || len(asked) < n+2 {
			t.Errorf("%v, held %q, %d requests", s.Outcome(), s.Progress.Held, len(asked))
		}
		w.holds("a", want)
	})
	t.Run("a rate for one, off in the middle", func(t *testing.T) {
		w := w.in(t)
		w.set(config.DownloadLimit, "300K")
		defer w.set(config.DownloadLimit, "unlimited")
		if err := w.e.Remove("a"); err != nil {
			t.Fatal(err)
		}
		asked := w.asked()
		o := w.start(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "b", Limit: "500K"})
		for range 2 { // the index, and frames
			<-asked
		}
		w.set(config.DownloadLimit, "off")
		w.until(o, "nothing is fetched", isHeld("download-limit"))
		w.set(config.DownloadLimit, "300K")
		s := w.wait(o)
		if err := s.Outcome(); err != nil {
			t.Fatal(err)
		}
		if rate := float64(s.Receipt.Wire) / s.Receipt.Seconds; rate > 1.1*300*1024 || s.Receipt.Wire < 2<<20 || s.Receipt.Wire > 3<<20 {
			t.Errorf("%d bytes over the line, %.0f a second", s.Receipt.Wire, rate)
		}
	})
	t.Run("of the request", func(t *testing.T) {
		w := w.in(t)
		if err := w.e.Remove("b"); err != nil {
			t.Fatal(err)
		}
		rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "c", Limit: "1M"})
		if rate := float64(rc.Wire) / rc.Seconds; rate > 1.1*(1<<20) {
			t.Errorf("%.0f bytes a second", rate)
		}
		if _, err := w.e.Start(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "d", Limit: "much"}); code(t, err) != "DS-USAGE" {
			t.Errorf("%v", err)
		}
	})
}

const goesAhead = "the connection is metered; this goes ahead because it was asked for by name"

func TestMeteredConnection(t *testing.T) {
	v1, v2, v3 := disk(1, 2), disk(1, 3), disk(1, 4)
	w := ready(t, v1)
	download := endpoint.Request{Kind: endpoint.Download, Image: "win7"}
	w.e.Metered(true)
	if rc := w.run(download); !slices.Contains(rc.Notes, goesAhead) {
		t.Errorf("named: notes %q", rc.Notes)
	}
	w.publish("win7", v2)
	update := endpoint.Request{Kind: endpoint.Update}
	o := w.start(update)
	w.until(o, "it is held", isHeld("the connection is metered"))
	// A connection that is not metered, then one that is, then the user asks by name.
	w.e.Metered(false)
	if rc := w.wait(o).Receipt; rc == nil || rc.Version != 2 || len(rc.Notes) > 0 {
		t.Fatalf("%+v", rc)
	}
	w.holds("win7", v2)
	w.publish("win7", v3)
	w.e.Metered(true)
	o = w.start(endpoint.Request{Kind: endpoint.Update})
	w.until(o, "it is held", isHeld("the connection is metered"))
	if err := o.Resume(); err != nil {
		t.Fatal(err)
	}
	s := w.wait(o)
	if err := s.Outcome(); err != nil || !slices.Contains(s.Notes, goesAhead) {
		t.Errorf("%v, notes %q", err, s.Notes)
	}
	w.holds("win7", v3)
}

// TestMeteredSettings: what the setting says holds, at once; and what was under way goes on by itself only as it says.
func TestMeteredSettings(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.publish("win7", disk(1, 3))
	update := endpoint.Request{Kind: endpoint.Update}
	w.e.Metered(true)
	o := w.start(update)
	w.until(o, "it is held", isHeld("metered"))
	// The service starts again, and does not go ahead unasked.
	w.restart()
	w.e.Metered(true)
	w.e.ResumeAll()
	o = w.e.Operations()[len(w.e.Operations())-1]
	w.until(o, "it is held", isHeld("metered"))
	w.set(config.MeteredConnections, "500K")
	if s := w.wait(o); s.Outcome() != nil || len(s.Notes) > 0 {
		t.Errorf("%v, notes %q", s.Outcome(), s.Notes)
	}
	w.publish("win7", disk(1, 4))
	w.set(config.MeteredConnections, "allow")
	if rc := w.run(update); rc.Version != 3 || len(rc.Notes) > 0 {
		t.Errorf("%+v", rc)
	}
	w.publish("win7", disk(1, 5))
	w.set(config.MeteredConnections, "pause")
	o = w.start(update)
	w.until(o, "it is held", isHeld("metered"))
	w.set(config.MeteredConnections, "allow")
	if s := w.wait(o); s.Outcome() != nil {
		t.Error(s.Outcome())
	}
	// It can be stopped while nothing is let through.
	w.publish("win7", disk(1, 6))
	w.set(config.MeteredConnections, "pause")
	o = w.start(update)
	w.until(o, "it is held", isHeld("metered"))
	o.Pause()
	if s := w.wait(o); s.State != endpoint.Paused || s.Progress.Held != "" {
		t.Errorf("%s, held %q", s.State, s.Progress.Held)
	}
}

// TestUploadLimit: a backup waits, with the disks frozen, until the setting lets it through; and it keeps to the rate.
func TestUploadLimit(t *testing.T) {
	w := ready(t, lab.Disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	noise := make([]byte, 600<<10)
	rand.NewChaCha8([32]byte{99}).Read(noise)
	w.writes("win7", image.System, 4096, noise)
	w.set(config.UploadLimit, "off")
	o := w.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	w.until(o, "nothing is sent", isHeld("the setting upload-limit is off"))
	if vm := w.vm("win7"); vm.Instant == nil || len(vm.Current.Disks[0].Frozen) != 1 {
		t.Errorf("the disk is not frozen: %+v", vm)
	}
	w.set(config.UploadLimit, "400K")
	s := w.wait(o)
	if err := s.Outcome(); err != nil {
		t.Fatal(err)
	}
	if rc := s.Receipt; rc.Wire < int64(len(noise)) || rc.Seconds < 1 {
		t.Errorf("%d bytes over the line in %.1f s", rc.Wire, rc.Seconds)
	}
}
