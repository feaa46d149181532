package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/vhd"
)

// VerifyOptions says what to read back.
type VerifyOptions struct {
	Path string // a folder, or an image of a disc or the disc itself
	// Keys open sealed files, and Key is what manifests must be signed with; zeros: nobody knows.
	Keys []image.MediaKey
	Key  image.PublicKey
	// Progress is as in Options.
	Progress func(stage string, done, total int64)
}

// Verdict is what a medium was found to be.
type Verdict struct {
	Path  string    `json:"path"`
	Files []Checked `json:"files"`
	// Memory is how many bytes may have come from the system's memory and not from the medium; -1: nobody knows.
	Memory int64    `json:"memory"`
	Notes  []string `json:"notes,omitempty"`
}

// Kind says what a file on a medium is.
type Kind string

// The kinds.
const (
	KindLayer    Kind = "layer"
	KindPart     Kind = "part" // of a layer
	KindManifest Kind = "manifest"
	KindVHD      Kind = "vhd"
	KindDisc     Kind = "disc" // the tables of an image of a disc
)

// Fault says what is wrong with a file.
type Fault string

// The faults.
const (
	FaultDamaged    Fault = "damaged"
	FaultUnfinished Fault = "unfinished" // an interrupted run left it; what it has is good
	FaultUntrusted  Fault = "untrusted"  // a manifest with another signature
	FaultNoKey      Fault = "no-key"     // sealed, and the key is not here
)

// Checked is a file that was read back.
type Checked struct {
	Path   string        `json:"path"`
	Kind   Kind          `json:"kind"`
	Layer  image.LayerID `json:"layer"` // zeros: none, or not known
	Length int64         `json:"length"`
	Blocks int           `json:"blocks"` // that are good
	Bad    int           `json:"bad"`    // that are not
	Sealed bool          `json:"sealed,omitempty"`
	Fault  Fault         `json:"fault,omitempty"`
	Why    string        `json:"why,omitempty"`
}

// verifier reads a medium back.
type verifier struct {
	VerifyOptions
	out         Verdict
	done, total int64
	vhds        []*plainFile
}

// plainFile is a VHD on a medium.
type plainFile struct {
	name string
	size int64
	m    *vhd.Image
}

// Verify reads back everything of ours that a medium has, past the system's memory where that is possible, and checks every block. The
// verdict is complete also where it comes with an error, which is that of the worst fault: DS-MEDIA-DAMAGED, DS-MEDIA-MANIFEST,
// DS-MEDIA-KEY, DS-MEDIA-UNFINISHED or, when there is nothing, DS-MEDIA-EMPTY.
func Verify(ctx context.Context, o VerifyOptions) (Verdict, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	v := &verifier{VerifyOptions: o, out: Verdict{Path: o.Path, Files: []Checked{}}}
	folder, err := isFolder(o.Path)
	switch {
	case err != nil:
	case folder:
		err = v.folder(ctx)
	default:
		err = v.disc(ctx)
	}
	if err != nil {
		return v.out, fmt.Errorf("read back %s: %w", problem.Printable(o.Path), err)
	}
	return v.out, v.outcome()
}

// maxLevels is how many folders below the root are looked into: as many as endpoints look into.
const maxLevels = 2

// candidate is a file that may be one of ours.
type candidate struct {
	name string
	size int64
}

func (v *verifier) folder(ctx context.Context) error {
	fsys, err := durable.Dir(v.Path)
	if err != nil {
		return err
	}
	var files []candidate
	level := []string{"."}
	for depth := 0; depth <= maxLevels; depth++ {
		var below []string
		for _, dir := range level {
			entries, err := fsys.ReadDir(dir)
			if err != nil {
				if depth == 0 {
					return err
				}
				v.out.Notes = append(v.out.Notes, err.Error())
				continue
			}
			for _, e := range entries {
				name := path.Join(dir, e.Name())
				if e.IsDir() {
					below = append(below, name)
				} else if st, err := e.Info(); err == nil && e.Type().IsRegular() && len(files) < maxSurvey {
					files = append(files, candidate{name, st.Size()})
				}
			}
		}
		level = below
	}
	return v.all(ctx, fsys, files)
}

// all checks those of the files that are ours.
func (v *verifier) all(ctx context.Context, fsys durable.FS, files []candidate) error {
	type opened struct {
		candidate
		in   durable.File
		kind Kind
	}
	var ours []opened
	defer func() {
		for _, f := range ours {
			f.in.Close()
		}
	}()
	for _, c := range files {
		in, err := fsys.Open(c.name)
		if err != nil {
			v.out.Notes = append(v.out.Notes, err.Error())
			continue
		}
		kind := recognise(c.name, in, c.size)
		if kind == "" {
			in.Close()
			continue
		}
		ours = append(ours, opened{c, in, kind})
		v.total += c.size
	}
	for _, f := range ours {
		f.in.DropCache()
		if n, ok := durable.Resident(f.in); !ok {
			v.out.Memory = -1
		} else if v.out.Memory >= 0 {
			v.out.Memory += n
		}
		if err := v.file(ctx, f.name, f.kind, io.NewSectionReader(f.in, 0, f.size)); err != nil {
			return err
		}
	}
	if throughProgram(v.Path) {
		v.out.Notes = append(v.out.Notes, "the file system is a program (FUSE), whose own memory cannot be bypassed; unplug the medium and plug it in again to be sure")
	}
	return v.plain(ctx)
}

// recognise tells what a file is, "" when it is not ours.
func recognise(name string, in io.ReaderAt, size int64) Kind {
	var head [512]byte
	n, _ := in.ReadAt(head[:min(size, 512)], 0)
	switch {
	case layer.IsPiece(head[:n]):
		return KindPart
	case layer.IsHeader(head[:n]):
		return KindLayer
	case strings.HasPrefix(string(head[:n]), "conectix"):
		return KindVHD
	case strings.HasSuffix(name, manifestSuffix):
		return KindManifest
	}
	if k, _ := in.ReadAt(head[:], max(size-512, 0)); size >= 512 && k == 512 && strings.HasPrefix(string(head[:]), "conectix") {
		return KindVHD
	}
	return ""
}

// file checks one file. An error ends everything; what is wrong with the file is in the verdict.
func (v *verifier) file(ctx context.Context, name string, kind Kind, in *io.SectionReader) error {
	c := Checked{Path: name, Kind: kind, Length: in.Size()}
	switch kind {
	case KindManifest:
		v.manifest(&c, in)
	case KindVHD:
		m, err := vhd.Open(in, in.Size())
		if err != nil {
			c.fail(FaultDamaged, err)
			break
		}
		v.vhds = append(v.vhds, &plainFile{name, in.Size(), m})
		return nil
	default:
		v.frames(ctx, &c, in)
	}
	v.done += in.Size()
	v.Progress("verify "+name, v.done, max(v.done, v.total))
	v.out.Files = append(v.out.Files, c)
	return ctx.Err()
}

func (c *Checked) fail(f Fault, err error) { c.Fault, c.Why = f, problem.Printable(err.Error()) }

func (v *verifier) manifest(c *Checked, in *io.SectionReader) {
	if in.Size() > image.MaxEnvelopeSize {
		c.fail(FaultDamaged, image.ErrManifest)
		return
	}
	b := make([]byte, in.Size())
	if _, err := in.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		c.fail(FaultDamaged, err)
		return
	}
	if v.Key == (image.PublicKey{}) {
		return
	}
	switch _, err := image.VerifyManifest(b, v.Key); {
	case errors.Is(err, image.ErrUntrusted):
		c.fail(FaultUntrusted, err)
	case err != nil:
		c.fail(FaultDamaged, err)
	}
}

// frames checks the frames of a layer or a piece.
func (v *verifier) frames(ctx context.Context, c *Checked, in *io.SectionReader) {
	h, err := layer.ReadHolding(in, in.Size(), v.Keys...)
	var head [layer.PieceHeaderSize]byte
	n, _ := in.ReadAt(head[:], 0)
	if p, parseErr := layer.ParsePiece(head[:n], in.Size()); parseErr == nil {
		c.Layer, c.Sealed = p.Layer, p.Sealed()
	}
	switch {
	case errors.Is(err, layer.ErrNoKey):
		c.fail(FaultNoKey, errors.New("encrypted, no key here"))
		return
	case err != nil && strings.HasSuffix(c.Path, durable.TempSuffix):
		c.fail(FaultUnfinished, errors.New("an interrupted run left it"))
		return
	case err != nil:
		c.fail(FaultDamaged, err)
		return
	}
	c.Layer = h.Index().ID()
	var first error
	missing := 0
	begun := v.done
	visit := func(f layer.Frame, err error) error {
		switch {
		case err == nil:
			c.Blocks++
		case errors.Is(err, layer.ErrFormat): // the file ends before the frame does
			missing++
		default:
			c.Bad++
			if first == nil {
				first = err
			}
		}
		begun += int64(f.Length)
		v.Progress("verify "+c.Path, min(begun, v.total), v.total)
		return nil
	}
	if err := h.Verify(ctx, in, serially(visit)); err != nil {
		return // ended from outside
	}
	switch {
	case first != nil:
		c.fail(FaultDamaged, first)
	case missing > 0 || h.FileSize() > in.Size():
		c.fail(FaultUnfinished, fmt.Errorf("%d blocks are not there yet", missing))
	case h.FileSize() < in.Size():
		c.fail(FaultDamaged, fmt.Errorf("%d bytes too many", in.Size()-h.FileSize()))
	}
}

// outcome returns the error that the worst fault stands for.
func (v *verifier) outcome() error {
	count := map[Fault]int{}
	for _, c := range v.out.Files {
		count[c.Fault]++
	}
	name := problem.Printable(v.Path)
	const safe = "nothing was changed; endpoints use what is good of it and fetch the rest"
	switch {
	case len(v.out.Files) == 0:
		return problem.New("DS-MEDIA-EMPTY", problem.NotFound, nil, "there is nothing to verify on "+name, "nothing was changed",
			"`synchronizer media write` writes an image to it")
	case count[FaultDamaged] > 0:
		return problem.New("DS-MEDIA-DAMAGED", problem.Damaged, nil, fmt.Sprintf("damaged files on %s: %d", name, count[FaultDamaged]), safe,
			"write the medium again, which replaces what is damaged, or use another one")
	case count[FaultUntrusted] > 0:
		return problem.New("DS-MEDIA-MANIFEST", problem.Untrusted, nil, "a manifest on "+name+" is not signed by this Synchronizer", safe,
			"write the medium again; endpoints ask the Synchronizer and not the medium")
	case count[FaultNoKey] > 0:
		return problem.New("DS-MEDIA-KEY", problem.NeedsLogin, nil, fmt.Sprintf("encrypted files on %s whose key is not here: %d", name, count[FaultNoKey]),
			"nothing was changed", "verify it where the Synchronizer that wrote it can be reached")
	case count[FaultUnfinished] > 0:
		return problem.New("DS-MEDIA-UNFINISHED", problem.Failure, nil, fmt.Sprintf("unfinished files on %s: %d", name, count[FaultUnfinished]), safe,
			"run the same `media write` again, which goes on from there")
	}
	return nil
}
