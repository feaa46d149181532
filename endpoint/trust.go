package endpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	"disksync/api"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/syncclient"
)

const seenFile = "seen.json"

// seenImage is what was seen of an image: its highest version, and what each version was.
type seenImage struct {
	Name    string        `json:"name"`
	Highest image.Version `json:"highest"`
	// Versions has the SHA-256 of each manifest's content: a version that was seen once can never become another.
	Versions map[image.Version]string `json:"versions"`
}

// checkOffer refuses an offer that takes back what was seen before: a newest version that is older than one that was newest.
func (e *Engine) checkOffer(o api.Offer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s, ok := e.seen[o.ImageID.String()]; ok && o.Newest < s.Highest {
		return problem.New("DS-UP-ROLLBACK", problem.Untrusted, nil,
			fmt.Sprintf("the Synchronizer says that version %d of %s is the newest, but version %d was there before", o.Newest, o.Image, s.Highest),
			"nothing was changed", "ask the administrator; somebody may be passing off an old state as the present one")
	}
	return nil
}

// manifest fetches the manifest of a version, checks its signature, and remembers it.
func (e *Engine) manifest(ctx context.Context, c *syncclient.Client, r *Registration, name string, v image.Version) (image.Verified, error) {
	what := fmt.Sprintf("cannot get version %d of %s", v, name)
	env, err := c.Manifest(ctx, name, v)
	if err != nil {
		return image.Verified{}, syncclient.Explain(err, what, "nothing was changed")
	}
	m, err := image.VerifyManifest(env, r.SigningKey)
	if err != nil {
		p := problem.New("DS-UP-SIGNATURE", problem.Untrusted, err, what, "nothing was changed",
			"ask the administrator; register again with --replace only when the Synchronizer's keys were changed on purpose")
		return image.Verified{}, p
	}
	if mf := m.Manifest(); mf.Image != name || mf.Version != v {
		return image.Verified{}, problem.New("DS-UP-WRONG", problem.Untrusted, nil,
			fmt.Sprintf("%s: the Synchronizer sent version %d of %s in its place", what, mf.Version, mf.Image), "nothing was changed",
			"ask the administrator")
	}
	return m, e.remember(m)
}

// remember notes a verified manifest, and refuses one that contradicts an earlier one of the same version.
func (e *Engine) remember(m image.Verified) error {
	mf := m.Manifest()
	id := mf.ImageID.String()
	content, err := json.Marshal(mf) // without the signatures, of which there may be more later
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.seen[id]
	if had, ok := s.Versions[mf.Version]; ok && had == digest {
		return nil
	} else if ok {
		return problem.New("DS-UP-CHANGED", problem.Untrusted, nil,
			fmt.Sprintf("version %d of %s is not what it was when it was seen first", mf.Version, mf.Image), "nothing was changed",
			"ask the administrator; a published version never changes")
	}
	next := seenImage{Name: mf.Image, Highest: max(s.Highest, mf.Version), Versions: maps.Clone(s.Versions)}
	if next.Versions == nil {
		next.Versions = map[image.Version]string{}
	}
	next.Versions[mf.Version] = digest
	all := maps.Clone(e.seen)
	all[id] = next
	if err := writeJSON(e.fsys, seenFile, all); err != nil {
		return err
	}
	e.seen = all
	return nil
}

// trusted returns the keys that stored manifests may be signed with.
func (e *Engine) trusted() []image.PublicKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.registration == nil {
		return nil
	}
	return append([]image.PublicKey{e.registration.SigningKey}, e.registration.OldKeys...)
}

// choose finds the offer of an image; "" means the only one.
func (e *Engine) choose(ctx context.Context, c *syncclient.Client, name string) (api.Offer, error) {
	offers, err := c.Offers(ctx)
	if err != nil {
		return api.Offer{}, syncclient.Explain(err, "cannot ask what is assigned to you", "nothing was changed")
	}
	if name == "" {
		switch len(offers) {
		case 0:
			return api.Offer{}, nothingAssigned()
		case 1:
			return offers[0], e.checkOffer(offers[0])
		}
		return api.Offer{}, problem.New("DS-CHOOSE", problem.Usage, nil, fmt.Sprintf("%d images are assigned to you", len(offers)),
			"", "name one; `disksyncmgr list` shows them")
	}
	for _, o := range offers {
		if o.Image == name {
			return o, e.checkOffer(o)
		}
	}
	return api.Offer{}, problem.New("DS-NOT-ASSIGNED", problem.NotFound, nil, fmt.Sprintf("no image %s is assigned to you", name),
		"", "`disksyncmgr list` shows what is; the administrator assigns images")
}

func nothingAssigned() error {
	return problem.New("DS-NOT-ASSIGNED", problem.NotFound, nil, "no image is assigned to you", "", "ask the administrator to assign one")
}
