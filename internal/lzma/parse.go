package lzma

// parse codes what is from pos to the end of the buffer: long matches as soon as they are met, and between them the cheapest way by
// the prices that literals, lengths and distances have by then.
func (e *Encoder) parse(pos int) {
	e.prices.update(&e.model)
	lone := 0 // literals in a row before pos
	for pos < len(e.buf) {
		if lone >= noiseAfter {
			n := e.noise(pos)
			if lone = 0; n == noiseRun {
				lone = noiseAfter
			}
			pos += n
			continue
		}
		n := e.search(pos)
		if n == 1 && e.nodes[1].op == opLiteral {
			lone++
		} else {
			lone = 0
		}
		if n == 0 {
			e.step(pos, e.nice, e.niceOp)
			e.skip(pos, e.nice)
			pos += e.nice
		} else {
			e.walk(pos, n)
			pos += n
		}
		if e.prices.age >= maxAge {
			e.prices.update(&e.model)
		}
	}
}

const (
	// noiseAfter is how many literals in a row are taken for noise: what was packed or encrypted before. Nothing else has so many.
	noiseAfter = 256
	// noiseRun is how many bytes of noise are coded in one go, and noiseStep how far apart a long match is looked for in them.
	noiseRun, noiseStep = 256, 8
)

// noise codes literals, up to a long match that begins within noiseRun bytes, and returns how many. Matches are looked for and places
// taken into the tables here and there only.
func (e *Encoder) noise(pos int) int {
	end := min(pos+noiseRun, len(e.buf))
	for at := pos; at < end; at++ {
		if (at-pos)%noiseStep == 0 {
			e.ready = max(e.ready, at)
			if e.find(at, true); e.longest() >= longMatch {
				return at - pos
			}
			e.insert(at + 2)
		}
		e.literalAt(at)
	}
	e.ready = max(e.ready, end)
	return end - pos
}

// walk codes the way to the node at end.
func (e *Encoder) walk(start, end int) {
	nodes := &e.nodes
	for at := end; at > 0; {
		prev := int(nodes[at].prev)
		nodes[prev].next = uint16(at)
		at = prev
	}
	for at := 0; at < end; {
		next := int(nodes[at].next)
		n := &nodes[next]
		first, tail := next-at, int(n.tail)
		if tail > 0 {
			first -= tail
			if n.op != opLiteral {
				first--
			}
		}
		pos := start + at
		e.step(pos, first, n.op)
		if tail > 0 {
			if n.op != opLiteral {
				e.step(pos+first, 1, opLiteral)
			}
			e.step(start+next-tail, tail, 0)
		}
		at = next
	}
}

// step codes n bytes.
func (e *Encoder) step(pos, n int, op uint32) {
	switch {
	case op == opLiteral:
		e.literalAt(pos)
		return
	case op >= opMatch:
		e.matchAt(pos, n, op-opMatch)
	default:
		e.repAt(pos, n, int(op))
	}
	e.prices.age++
}

// skip takes what a long match covers into the tables. It is in them already, at the place where it was found; a few positions at
// its ends are enough for what lies across them.
func (e *Encoder) skip(pos, n int) {
	if n > 3*edge {
		e.insert(pos + edge)
		e.ready = max(e.ready, pos+n-edge)
	}
	e.insert(pos + n)
}

// edge is how many positions at each end of a long match are taken into the tables.
const edge = 8
