package lzma

const (
	// window is how many bytes ahead a way is looked for.
	window = 2048
	// What a step does: 0 to 3 is a match at one of the last distances, from opMatch on one at the distance less 1 that follows.
	opMatch   = 4
	opLiteral = 1<<32 - 1
)

// node is the cheapest way that is known to a byte of the window: its last step, and what has changed by then.
type node struct {
	price uint32
	op    uint32
	prev  uint16 // where the step begins
	tail  uint16 // bytes at the end of the step that are a match at the last distance, behind a literal
	next  uint16 // on the way that is taken
	state uint8
	reps  [4]uint32
}

// optimum is a search for the cheapest way through the window: at each byte the cheapest way there is known, and each step that can
// be made from it is offered to the byte that it leads to. Beside the steps of the format those are taken as one that go on at the
// same distance behind an odd byte.
type optimum struct {
	prices
	nodes [window + niceLen + maxMatch + 2]node
	end   int // the last node that a way leads to
}

// reach makes nodes known up to end.
func (o *optimum) reach(end int) {
	for ; o.end < end; o.end++ {
		o.nodes[o.end+1].price = infinite
	}
}

// offer takes a step to a node if it is the cheapest so far.
func (o *optimum) offer(to int, price, op uint32, prev, tail int) {
	if n := &o.nodes[to]; price < n.price {
		n.price, n.op, n.prev, n.tail = price, op, uint16(prev), uint16(tail)
	}
}

// arrive sets the state and the last distances of a node from where its way comes from.
func (o *optimum) arrive(at int) {
	n := &o.nodes[at]
	p := &o.nodes[n.prev]
	state := p.state
	n.reps = p.reps
	switch {
	case n.op == opLiteral:
		state = afterLiteral[state]
	case n.op >= opMatch:
		n.reps = [4]uint32{n.op - opMatch, p.reps[0], p.reps[1], p.reps[2]}
		state = afterMatch[state]
	case int(n.prev)+1 == at:
		state = afterShortRep[state]
	default:
		toFront(&n.reps, int(n.op))
		state = afterRep[state]
	}
	if n.tail > 0 {
		if n.op != opLiteral {
			state = afterLiteral[state]
		}
		state = afterRep[state]
	}
	n.state = state
}

func toFront(reps *[4]uint32, i int) {
	d := reps[i]
	for ; i > 0; i-- {
		reps[i] = reps[i-1]
	}
	reps[0] = d
}

// search finds a way from pos to where all ways meet, or a long match begins, or the window ends, and returns its length: 0 when
// a long match begins at pos.
func (e *Encoder) search(pos int) int {
	o := &e.optimum
	o.end = 0
	o.nodes[0] = node{state: e.state, reps: e.reps}
	if e.from(pos, 0) {
		return 0
	}
	for cur := 1; ; cur++ {
		if cur == o.end || cur == window {
			return cur
		}
		o.arrive(cur)
		if e.from(pos, cur) {
			return cur
		}
	}
}

// from offers all steps from a node. It reports whether it has not, as a match of niceLen bytes or more begins there, which then is
// nice and niceOp.
func (e *Encoder) from(start, cur int) bool {
	o := &e.optimum
	n := &o.nodes[cur]
	pos := start + cur
	limit := min(len(e.buf)-pos, maxMatch)
	var repLens [4]int
	best := 0
	for i, d := range n.reps {
		if int(d) < pos {
			repLens[i] = matchLen(e.buf, pos-int(d)-1, pos, limit)
			best = max(best, repLens[i])
			if repLens[i] >= niceLen {
				e.nice, e.niceOp = repLens[i], uint32(i)
				return true
			}
		}
	}
	if e.foundAt != pos {
		e.find(pos, best >= goodLen)
	}
	if k := len(e.found); k > 0 && e.found[k-1].n >= niceLen {
		e.nice, e.niceOp = e.found[k-1].n, e.found[k-1].dist+opMatch
		return true
	}
	posState := pos & posMask
	matchPrice := n.price + price1(e.isMatch[n.state][posState])
	repPrice := matchPrice + price1(e.isRep[n.state])
	e.literals(pos, cur, n.price+price0(e.isMatch[n.state][posState]), repPrice)
	for i, k := range repLens {
		if k >= minMatch {
			e.repeats(pos, cur, i, k, repPrice+e.repPrice(i, n.state, posState))
		}
	}
	if len(e.found) > 0 {
		e.matches(pos, cur, max(minMatch, repLens[0]+1), matchPrice+price0(e.isRep[n.state]))
	}
	return false
}

// repPrice returns the price of one of the last distances, for a match of more than one byte.
func (e *Encoder) repPrice(i int, state uint8, posState int) uint32 {
	if i == 0 {
		return price0(e.isRep0[state]) + price1(e.isRep0Long[state][posState])
	}
	p := price1(e.isRep0[state])
	if i == 1 {
		return p + price0(e.isRep1[state])
	}
	return p + price1(e.isRep1[state]) + priceOf(e.isRep2[state], uint32(i-2))
}

// literals offers what begins with a single byte: a literal, a repetition, a literal with a match at the last distance behind it.
func (e *Encoder) literals(pos, cur int, price, repPrice uint32) {
	o := &e.optimum
	n := &o.nodes[cur]
	before := byte(0)
	if pos > 0 {
		before = e.buf[pos-1]
	}
	p := &e.literal[before>>(8-lc)]
	c, back := e.buf[pos], pos-int(n.reps[0])-1
	o.reach(cur + 1)
	if back < 0 {
		o.offer(cur+1, price+literalPrice(p, uint32(c)), opLiteral, cur, 0)
		return
	}
	match := e.buf[back]
	if n.state < literalStates {
		price += literalPrice(p, uint32(c))
	} else {
		price += matchedPrice(p, uint32(c), uint32(match))
	}
	o.offer(cur+1, price, opLiteral, cur, 0)
	if c == match {
		o.offer(cur+1, repPrice+price0(e.isRep0[n.state])+price0(e.isRep0Long[n.state][pos&posMask]), 0, cur, 0)
		return
	}
	limit := min(len(e.buf)-pos-1, niceLen)
	if k := matchLen(e.buf, back+1, pos+1, limit); k >= minMatch {
		state := afterLiteral[n.state]
		e.tail(pos+1, cur+1, k, state, price, opLiteral, cur)
	}
}

// tail offers a step that ends with a match of k bytes at pos at the last distance; price is that of what is before.
func (e *Encoder) tail(pos, at, k int, state uint8, price, op uint32, prev int) {
	posState := pos & posMask
	price += price1(e.isMatch[state][posState]) + price1(e.isRep[state]) + e.repPrice(0, state, posState)
	e.reach(at + k)
	e.offer(at+k, price+uint32(e.prices.rep[posState][k]), op, prev, k)
}

// repeats offers matches of up to k bytes at one of the last distances.
func (e *Encoder) repeats(pos, cur, i, k int, price uint32) {
	o := &e.optimum
	o.reach(cur + k)
	t := &o.rep[pos&posMask]
	for n := k; n >= minMatch; n-- {
		o.offer(cur+n, price+uint32(t[n]), uint32(i), cur, 0)
	}
	if n := &o.nodes[cur]; i == 0 {
		e.beyond(pos, cur, k, n.reps[0], afterRep[n.state], price+uint32(t[k]), 0) // at the others it hardly ever wins
	}
}

// beyond offers a match of k bytes with a literal and a match at the same distance behind it.
func (e *Encoder) beyond(pos, cur, k int, dist uint32, state uint8, price, op uint32) {
	at := pos + k
	limit := min(len(e.buf)-at-1, niceLen)
	if limit < minMatch {
		return
	}
	back := at - int(dist) - 1
	n := matchLen(e.buf, back+1, at+1, limit)
	if n < minMatch {
		return
	}
	price += price0(e.isMatch[state][at&posMask])
	price += matchedPrice(&e.literal[e.buf[at-1]>>(8-lc)], uint32(e.buf[at]), uint32(e.buf[back]))
	e.tail(at+1, cur+k+1, n, afterLiteral[state], price, op, cur)
}

// matches offers the matches that were found, of least bytes and more.
func (e *Encoder) matches(pos, cur, least int, price uint32) {
	o := &e.optimum
	state := afterMatch[o.nodes[cur].state]
	t := &o.prices.match[pos&posMask]
	n := least
	o.reach(cur + e.found[len(e.found)-1].n)
	for i, f := range e.found {
		if f.n < n {
			continue
		}
		op := f.dist + opMatch
		for ; n < minMatch+lenStates-1 && n <= f.n; n++ {
			o.offer(cur+n, price+uint32(t[n])+o.distance(n-minMatch, f.dist), op, cur, 0)
		}
		far := price + o.distance(lenStates-1, f.dist)
		for ; n <= f.n; n++ {
			o.offer(cur+n, far+uint32(t[n]), op, cur, 0)
		}
		if i == len(e.found)-1 { // behind shorter ones it hardly ever wins
			e.beyond(pos, cur, f.n, f.dist, state, price+uint32(t[f.n])+o.distance(lenState(f.n), f.dist), op)
		}
	}
}
