package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/api"
	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/syncclient"
)

// TestKill kills the service again and again while it downloads and updates. Whenever that happens, the next one goes on by
// itself, nothing is fetched twice but what was on its way, and in the end everything is as if nothing had happened.
//
// DISKSYNC_KILL_ROUNDS says how often.
func TestKill(t *testing.T) {
	k := newKiller(t, testkit.KillRounds(t, fewKills))
	for !k.enough() {
		k.work(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1, Media: []string{k.stick}}, k.fromNetwork)
		k.wantVM(1, k.v1)
		k.work(endpoint.Request{Kind: endpoint.Update, VM: "win7", Version: 2}, k.difference)
		k.wantVM(2, k.v2)
		if err := k.client.Remove(t.Context(), "win7"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d of them in the middle of the work, after %d KiB in all; %d KiB were fetched twice",
		k.kills, k.inTheMiddle, k.carried>>10, k.twice>>10)
	// Over all kills, because a service that gets no processor for a moment may have much of a range on its way.
	if most := k.mayRepeat(k.kills); k.twice > most {
		t.Errorf("%d kills: %d bytes were fetched twice, and at most %d should be", k.kills, k.twice, most)
	}
	if 2*k.inTheMiddle < k.kills {
		t.Errorf("only %d of %d kills were in the middle of the work", k.inTheMiddle, k.kills)
	}
}

// fewKills is how often the service is killed where nobody asks for more.
const fewKills = 12

// killer has a service that it kills.
type killer struct {
	t      *testing.T
	random *rand.Rand
	bus    *testkit.Bus
	line   *lab.Line
	dir    string // the state folder
	stick  string // has the first half of version 1
	v1, v2 []byte
	// What has to come over the network: the layers' frames that the stick does not have, in bytes.
	fromNetwork, difference int64
	largest                 int64 // frame

	service     *testkit.Program
	client      *dbusapi.Client
	rounds      int                 // kills to be
	old         map[image.UUID]bool // operations that are over
	kills       int
	inTheMiddle int
	carried     int64 // over the line to services that were killed
	twice       int64 // over the line besides what was wanted
}

const (
	// lineRate makes a transfer last long enough to be killed in the middle.
	lineRate = 6 << 20
	// connections is how many requests may be under way at once.
	connections = 4
	// overhead bounds what a start of the service fetches besides frames: TLS, offers, manifest, index, and what is on its way in
	// between.
	overhead = 64 << 10
	// fill is how much of a block is not zero: much less than what comes over the line between two kills.
	fill = 256 << 10
)

func newKiller(t *testing.T, rounds int) *killer {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	k := &killer{t: t, rounds: rounds, random: rand.New(rand.NewPCG(seed, 0)), bus: testkit.StartBus(t, testkit.SessionBus), dir: filepath.Join(t.TempDir(), "state")}
	const blocks = 36
	k.v1 = make([]byte, blocks*image.BlockSize)
	for i := range uint64(blocks) {
		lab.Fill(k.v1[i*image.BlockSize:][:2*fill], i+1) // half of that is zeros
	}
	k.v2 = bytes.Clone(k.v1)
	for i := uint64(0); i < blocks; i += 2 {
		lab.Fill(k.v2[i*image.BlockSize:][:2*fill], i+101)
	}
	address, fingerprint := k.startSynchronizer()
	k.line = (&lab.Lab{URL: address}).Line(t, 0)
	name, value, _ := strings.Cut(k.bus.Env()[0], "=")
	t.Setenv(name, value)
	var err error
	if k.client, err = dbusapi.Dial(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.client.Close() })
	k.start()
	if _, err := k.client.Register(t.Context(), k.line.URL, fingerprint, false); err != nil {
		t.Fatal(err)
	}
	if err := k.client.Login(t.Context(), "alice", lab.Password); err != nil {
		t.Fatal(err)
	}
	k.setting("enable-dvd-cache", dbus.MakeVariant(false))
	k.setting("download-cksize", dbus.MakeVariant(int32(1)))
	return k
}

// startSynchronizer starts a Synchronizer that has the two versions, and writes half of the first one to the stick.
func (k *killer) startSynchronizer() (address string, f syncclient.Fingerprint) {
	k.t.Helper()
	t, dir := k.t, k.t.TempDir()
	data := filepath.Join(dir, "data")
	k.stick = filepath.Join(dir, "stick")
	server := testkit.StartProgram(t, exec.Command(shipped.Path(t, "synchronizer"), "serve", "--data", data, "--listen", "127.0.0.1:0"))
	words := strings.Fields(server.Line) // listening URL fingerprint FINGERPRINT
	f, err := syncclient.ParseFingerprint(words[3])
	if err != nil {
		t.Fatal(err)
	}
	administer := func(input string, args ...string) {
		t.Helper()
		cmd := exec.Command(shipped.Path(t, "synchronizer"), append([]string{"--data", data}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	administer(lab.Password, "user", "add", "alice", "--password-stdin")
	for _, disk := range [][]byte{k.v1, k.v2} {
		name := filepath.Join(dir, "disk.raw")
		if err := os.WriteFile(name, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		administer("", "image", "publish", "win7", "--system", name)
	}
	administer("", "assign", "win7", "--to", "user:alice")
	administer("", "media", "write", "-n", "win7", "-v", "1", "--to", k.stick)
	k.measure(words[1], f)
	return words[1], f
}

// measure finds out how much has to come over the network, and cuts the layer on the stick in half, as somebody does who splits
// a file that is too large.
func (k *killer) measure(address string, f syncclient.Fingerprint) {
	k.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		k.t.Fatal(err)
	}
	o := syncclient.Options{URL: u, Fingerprint: f}
	anybody, err := syncclient.New(o)
	if err != nil {
		k.t.Fatal(err)
	}
	defer anybody.Close()
	device := api.Device{ID: image.RandomUUID([16]byte{1}), Name: "test"}
	token, err := anybody.Login(k.t.Context(), api.Login{User: "alice", Password: lab.Password, Device: device})
	if err != nil {
		k.t.Fatal(err)
	}
	o.Token = token.Token
	c, err := syncclient.New(o)
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close()
	full := newestLayer(k.t, c, "win7", 1)
	half := full.Length / 2
	k.fromNetwork = k.frames(c, full, half)
	k.difference = k.frames(c, newestLayer(k.t, c, "win7", 2), 0)
	names, err := filepath.Glob(filepath.Join(k.stick, "*.dsl"))
	if err != nil || len(names) != 1 {
		k.t.Fatal(names, err)
	}
	if err := os.Truncate(names[0], half); err != nil {
		k.t.Fatal(err)
	}
}

// newestLayer returns the last layer of the path to the system disk of a version, as the signed manifest names it.
func newestLayer(t *testing.T, c *syncclient.Client, name string, v image.Version) image.LayerRef {
	t.Helper()
	s, err := c.Server(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := c.Manifest(t.Context(), name, v)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.VerifyManifest(envelope, s.SigningKey)
	if err != nil {
		t.Fatal(err)
	}
	layers := m.Manifest().Disks[0].Layers
	return layers[len(layers)-1]
}

// frames returns the length of all frames of a layer that end behind an offset.
func (k *killer) frames(c *syncclient.Client, ref image.LayerRef, behind int64) (n int64) {
	k.t.Helper()
	x, err := c.Index(k.t.Context(), ref)
	if err != nil {
		k.t.Fatal(err)
	}
	for i := range x.Len() {
		f := x.Frame(i)
		if end := f.Offset + int64(f.Length); f.Codec != layer.Zero && end > behind {
			n += int64(f.Length)
			k.largest = max(k.largest, int64(f.Length))
		}
	}
	return n
}

func (k *killer) start() {
	k.t.Helper()
	cmd := exec.Command(shipped.Path(k.t, "disksyncmgr"), "serve", "--session", "--state", k.dir)
	cmd.Env = append(os.Environ(), k.bus.Env()...)
	k.service = testkit.StartProgram(k.t, cmd)
}

func (k *killer) setting(name string, v dbus.Variant) {
	k.t.Helper()
	conn, err := dbus.Connect(k.bus.Address)
	if err != nil {
		k.t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Object(dbusapi.Service, "/").Call("org.freedesktop.DBus.Properties.Set", 0, dbusapi.Service+".config", name, v).Err
	if err != nil {
		k.t.Fatal(err)
	}
}

// work starts an operation and kills the service while it runs, a few times and at most until there were enough kills. Then it
// lets the operation finish, and looks what came over the network in all.
func (k *killer) work(r endpoint.Request, wanted int64) {
	k.t.Helper()
	before := k.line.Down()
	k.line.SetRate(lineRate)
	k.old = map[image.UUID]bool{}
	for _, st := range k.stored() {
		k.old[st.ID] = true
	}
	followed := make(chan error, 1)
	go func() {
		_, err := k.client.Run(k.t.Context(), r, func(endpoint.Status) {})
		followed <- err
	}()
	testkit.Until(k.t, "the operation is there", func() bool { return k.current(k.stored()) != nil })
	kills := 0
	for kills < 6 && !k.enough() && k.killOnce() {
		kills++
		if kills == 1 {
			k.wantGone(<-followed)
		}
		k.start()
		k.checkVM(r.Kind)
	}
	k.line.SetRate(0)
	testkit.Until(k.t, "the operation finishes", func() bool {
		op := k.operation()
		if op.State == endpoint.Failed {
			k.t.Fatalf("it failed: %v", op.Problem)
		}
		return op.State == endpoint.Finished && !op.Active
	})
	if kills == 0 {
		if err := <-followed; err != nil {
			k.t.Error(err)
		}
	}
	got := k.line.Down() - before
	k.twice += got - wanted - overhead
	k.t.Logf("%s: %d kills, %d KiB over the line, %d KiB wanted", r.Kind, kills, got>>10, wanted>>10)
	if got < wanted || kills == 0 && got > wanted+overhead {
		k.t.Errorf("%d kills: %d bytes came over the line, and %d were wanted", kills, got, wanted)
	}
	if err := leftovers(k.dir); err != nil {
		k.t.Error(err)
	}
}

// enough reports whether there were enough kills, and enough to lose: a service that kept nothing would fetch all that was
// carried again, which has to be much more than what may be fetched again, or the test would show nothing.
func (k *killer) enough() bool {
	return k.kills >= k.rounds && k.carried > k.mayRepeat(k.kills)*3/2
}

// mayRepeat returns how many bytes more than the wanted ones so many kills may cost: what was on its way.
func (k *killer) mayRepeat(kills int) int64 { return int64(kills) * (connections*k.largest + overhead) }

// wantGone wants what somebody who follows an operation is told when the service ends under it: unless the operation was over
// just before.
func (k *killer) wantGone(err error) {
	k.t.Helper()
	if p := problem.Of(err); p != nil && (p.Code != "DS-SERVICE-GONE" || p.Exit != problem.Unreachable) {
		k.t.Errorf("whoever follows the operation is told %+v", p)
	}
}

// operation returns the operation that is worked on, as the service tells.
func (k *killer) operation() *endpoint.Status {
	k.t.Helper()
	all, err := k.client.Operations(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	op := k.current(all)
	if op == nil {
		k.t.Fatalf("the operation is forgotten: there are %+v", all)
	}
	return op
}

// current returns the one operation that was not there before.
func (k *killer) current(all []endpoint.Status) *endpoint.Status {
	for i := range all {
		if !k.old[all[i].ID] {
			return &all[i]
		}
	}
	return nil
}

// killOnce kills the service at a random point. It returns false when the operation was over before.
func (k *killer) killOnce() bool {
	k.t.Helper()
	from := k.line.Down()
	most := k.random.Int64N(4 << 20)
	var when string
	var now func() bool
	timer := time.NewTimer(time.Duration(k.random.Int64N(int64(400 * time.Millisecond))))
	defer timer.Stop()
	way := k.random.IntN(4)
	if k.kills >= k.rounds { // what was carried is too little yet, as where a busy machine is killed before it got anything
		way, most = 3, most/2+2<<20
	}
	switch way {
	case 0: // any time, from the first moments on
		when, now = "by the clock", func() bool {
			select {
			case <-timer.C:
				return true
			default:
				return false
			}
		}
	case 1: // in the middle of a name being given
		patterns := []string{"*/*.tmp", "disks/*.tmp", "vms/*.tmp"}
		pattern := patterns[k.random.IntN(len(patterns))]
		when, now = "when there is "+pattern, func() bool { return k.has(pattern) }
	default:
		when, now = "by what came over the line", func() bool { return k.line.Down()-from > most }
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for looked := 0; !now(); looked++ {
		<-tick.C
		if looked%50 == 49 && k.finished() {
			return false
		}
	}
	if !k.service.Kill() {
		k.t.Fatalf("the service did not die of the signal (%s)", when)
	}
	k.kills++
	k.carried += k.line.Down() - from
	if !k.finished() {
		k.inTheMiddle++
	}
	return true
}

func (k *killer) has(pattern string) bool {
	found, err := filepath.Glob(filepath.Join(k.dir, pattern))
	if err != nil {
		k.t.Fatal(err)
	}
	return len(found) > 0
}

// finished reports whether the operation is finished, as its file says.
func (k *killer) finished() bool {
	st := k.current(k.stored())
	return st != nil && st.State == endpoint.Finished
}

// stored returns the operations as their files tell.
func (k *killer) stored() []endpoint.Status {
	k.t.Helper()
	names, err := filepath.Glob(filepath.Join(k.dir, "operations", "*.json"))
	if err != nil {
		k.t.Fatal(err)
	}
	var all []endpoint.Status
	for _, name := range names {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // of those that are over, not all are kept
		}
		if err != nil {
			k.t.Fatal(err)
		}
		var st endpoint.Status
		if err := json.Unmarshal(b, &st); err != nil {
			k.t.Fatalf("%s: %v", name, err)
		}
		all = append(all, st)
	}
	return all
}

// checkVM: at every moment there is one whole version of the VM: during an update the old one or the new one.
func (k *killer) checkVM(kind endpoint.Kind) {
	k.t.Helper()
	vms, err := k.client.VMs(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	switch {
	case kind == endpoint.Download && len(vms) == 0:
	case len(vms) == 1 && vms[0].Version == 1:
	case len(vms) == 1 && vms[0].Version == 2 && vms[0].Previous == 1 && kind == endpoint.Update:
	default:
		k.t.Errorf("during the %s the VMs are %+v", kind, vms)
	}
	if op := k.operation(); !op.Active && op.State != endpoint.Finished {
		k.t.Errorf("the %s does not go on by itself: %+v", kind, op)
	}
}

// wantVM compares the VM with what was published, and the settings with what was set.
func (k *killer) wantVM(v image.Version, disk []byte) {
	k.t.Helper()
	vms, err := k.client.VMs(k.t.Context())
	if err != nil || len(vms) != 1 || vms[0].Version != v {
		k.t.Fatalf("VMs %+v %v", vms, err)
	}
	name := filepath.Join(k.t.TempDir(), "out.raw")
	cmd := exec.Command(shipped.Path(k.t, "disksyncmgr"), "--session", "export", "win7", "--to", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("export: %v: %s", err, out)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		k.t.Fatal(err)
	}
	if !bytes.Equal(got, disk) {
		k.t.Errorf("version %d is not what was published", v)
	}
	if err := os.Remove(name); err != nil {
		k.t.Error(err)
	}
	settings, err := os.ReadFile(filepath.Join(k.dir, "settings.toml"))
	if err != nil {
		k.t.Fatal(err)
	}
	if want := "download-cksize = 1\nenable-dvd-cache = false\n"; string(settings) != want {
		k.t.Errorf("the settings are\n%s", settings)
	}
}
