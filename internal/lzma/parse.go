package lzma

// farther reports whether one distance is so much longer than another that a match one byte shorter is the better one.
func farther(near, far uint32) bool { return near < far>>7 }

// parse chooses literals and matches from pos to the end of the buffer: the fast mode of the LZMA SDK, which looks one byte
// ahead.
func (e *Encoder) parse(pos int) {
	var next []found
	var main found
	looked := false // next is known
	for pos < len(e.buf) {
		if !looked {
			next = e.find(pos, 2)
		}
		looked = false
		limit := min(len(e.buf)-pos, maxMatch)
		rep, repLen := e.bestRep(pos, limit)
		if repLen >= niceLen {
			e.take(pos, repLen, func() { e.repAt(pos, repLen, rep) })
			pos += repLen
			continue
		}
		main = bestOf(next)
		if main.n >= niceLen {
			e.take(pos, main.n, func() { e.matchAt(pos, main.n, main.dist) })
			pos += main.n
			continue
		}
		if repLen >= 2 && (repLen+1 >= main.n || repLen+2 >= main.n && main.dist >= 1<<9 || repLen+3 >= main.n && main.dist >= 1<<15) {
			e.take(pos, repLen, func() { e.repAt(pos, repLen, rep) })
			pos += repLen
			continue
		}
		if main.n < minMatch || limit <= 2 {
			pos = e.one(pos)
			continue
		}
		now := main
		next = e.find(pos+1, max(2, now.n-2))
		looked = true
		if e.betterNext(pos, now, bestOf(next)) {
			pos = e.one(pos)
			continue
		}
		looked = false
		e.take(pos, now.n, func() { e.matchAt(pos, now.n, now.dist) })
		pos += now.n
	}
}

// betterNext reports whether a literal, and a match behind it, are better than the match now.
func (e *Encoder) betterNext(pos int, now, next found) bool {
	if next.n >= 2 && (next.n >= now.n && next.dist < now.dist ||
		next.n == now.n+1 && !farther(now.dist, next.dist) || next.n > now.n+1 ||
		next.n+1 >= now.n && now.n >= 3 && farther(next.dist, now.dist)) {
		return true
	}
	limit := min(len(e.buf)-pos-1, max(2, now.n-1))
	for _, d := range e.reps {
		if int(d) < pos+1 && matchLen(e.buf, pos+1-int(d)-1, pos+1, limit) >= limit {
			return true
		}
	}
	return false
}

// bestOf returns the match to take: the longest, unless a slightly shorter one is much nearer.
func bestOf(m []found) found {
	if len(m) == 0 {
		return found{}
	}
	i := len(m) - 1
	best := m[i]
	for i > 0 && best.n == m[i-1].n+1 && farther(m[i-1].dist, best.dist) {
		i--
		best = m[i]
	}
	if best.n == 2 && best.dist >= 0x80 || best.n == 3 && best.dist >= 1<<14 {
		return found{}
	}
	return best
}

// bestRep returns which of the last distances gives the longest match.
func (e *Encoder) bestRep(pos, limit int) (rep, n int) {
	for i, d := range e.reps {
		if int(d) >= pos {
			continue
		}
		if k := matchLen(e.buf, pos-int(d)-1, pos, limit); k > n {
			rep, n = i, k
		}
	}
	if n < 2 {
		return 0, 0
	}
	return rep, n
}

// one codes a byte: as a repetition of the last distance where that fits, else as a literal.
func (e *Encoder) one(pos int) int {
	if int(e.reps[0]) < pos && e.buf[pos] == e.buf[pos-int(e.reps[0])-1] && e.state >= literalStates {
		e.repAt(pos, 1, 0)
	} else {
		e.literalAt(pos)
	}
	return pos + 1
}

// take codes a match. What is in a long one is in the tables already, at the place where it was found; a few positions at its ends
// are enough for what lies across them.
func (e *Encoder) take(pos, n int, code func()) {
	code()
	if n > 3*edge {
		e.insert(pos + edge)
		e.ready = max(e.ready, pos+n-edge)
	}
	e.insert(pos + n)
}

// edge is how many positions at each end of a long match are taken into the tables.
const edge = 8
