package recompress

// tree is the making of a Huffman code as zlib and gzip do it (trees.c of zlib): among codes that are equally good the order in which
// nodes leave a heap decides, so this follows theirs.
type tree struct {
	freq  [2*literals + 1]uint32
	dad   [2*literals + 1]uint16
	depth [2*literals + 1]uint8
	len   [2*literals + 1]uint8
	heap  [2*literals + 1]uint16 // from 1 on; behind it the nodes that have left, the last one first
	size  int
}

// before reports whether node a leaves the heap before b.
func (t *tree) before(a, b uint16) bool {
	return t.freq[a] < t.freq[b] || t.freq[a] == t.freq[b] && t.depth[a] <= t.depth[b]
}

// sink moves the node at k of the heap down to where it belongs.
func (t *tree) sink(k int) {
	v := t.heap[k]
	for j := 2 * k; j <= t.size; j *= 2 {
		if j < t.size && t.before(t.heap[j+1], t.heap[j]) {
			j++
		}
		if t.before(v, t.heap[j]) {
			break
		}
		t.heap[k] = t.heap[j]
		k = j
	}
	t.heap[k] = v
}

// build sets lens to code lengths of at most limit bits for symbols that are as frequent as freq says. It returns the number of symbols
// up to the last that has a code.
func (t *tree) build(lens []uint8, freq []uint32, limit int) int {
	clear(lens)
	t.size = 0
	last := -1
	enter := func(n int) {
		t.size++
		t.heap[t.size] = uint16(n)
		t.depth[n] = 0
	}
	for n, f := range freq {
		t.freq[n], t.len[n] = f, 0
		if f > 0 {
			enter(n)
			last = n
		}
	}
	for t.size < 2 { // there are two codes at least
		n := 0
		if last < 2 {
			last++
			n = last
		}
		t.freq[n] = 1
		enter(n)
	}
	for n := t.size / 2; n >= 1; n-- {
		t.sink(n)
	}
	out := t.join(len(freq))
	t.lengths(out, len(freq), limit, last)
	copy(lens, t.len[:last+1])
	return last + 1
}

// join puts the two rarest nodes together until there is one, and returns where in the heap's array the nodes that have left begin.
func (t *tree) join(node int) (out int) {
	out = len(t.heap)
	for {
		a := t.heap[1]
		t.heap[1] = t.heap[t.size]
		t.size--
		t.sink(1)
		b := t.heap[1]
		t.heap[out-1], t.heap[out-2] = a, b
		out -= 2
		t.freq[node] = t.freq[a] + t.freq[b]
		t.depth[node] = max(t.depth[a], t.depth[b]) + 1
		t.dad[a], t.dad[b] = uint16(node), uint16(node)
		t.heap[1] = uint16(node)
		node++
		t.sink(1)
		if t.size < 2 {
			break
		}
	}
	out--
	t.heap[out] = t.heap[1]
	return out
}

// lengths gives each node the length of its code. What would be longer than limit gets limit, and as many others become longer as that
// takes.
func (t *tree) lengths(out, symbols, limit, last int) {
	var count [maxCode + 1]int
	over := 0
	t.len[t.heap[out]] = 0
	for _, n := range t.heap[out+1:] {
		l := int(t.len[t.dad[n]]) + 1
		if l > limit {
			l = limit
			over++
		}
		t.len[n] = uint8(l)
		if int(n) < symbols {
			count[l]++
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		l := limit - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[limit]--
	}
	at := len(t.heap)
	for l := limit; l > 0; l-- {
		for n := count[l]; n > 0; {
			at--
			if m := t.heap[at]; int(m) <= last {
				t.len[m] = uint8(l)
				n--
			}
		}
	}
}

// lengthCode is a symbol of those by which code lengths are written, with what stands behind it.
type lengthCode struct {
	sym, extra uint8
}

// runs appends the symbols that write the code lengths lens.
func runs(out []lengthCode, lens []uint8) []lengthCode {
	for i := 0; i < len(lens); {
		l, n := lens[i], 1
		most := 6
		if i == 0 || l != lens[i-1] {
			most = 7
		}
		if l == 0 {
			most = 138
		}
		for i+n < len(lens) && n < most && lens[i+n] == l {
			n++
		}
		i += n
		switch {
		case l != 0:
			if most == 7 {
				out = append(out, lengthCode{l, 0})
				n--
			}
			if n >= 3 {
				out = append(out, lengthCode{repeatLength, uint8(n - 3)})
				n = 0
			}
		case n >= 11:
			out = append(out, lengthCode{manyZeros, uint8(n - 11)})
			n = 0
		case n >= 3:
			out = append(out, lengthCode{zeros, uint8(n - 3)})
			n = 0
		}
		for range n {
			out = append(out, lengthCode{l, 0})
		}
	}
	return out
}

// huffman makes the codes of blocks.
type huffman struct {
	tree
	lit  [literals]uint32
	dist [distances]uint32
	runs []lengthCode
}

// codes sets c to the code lengths that zlib and gzip choose for the tokens, and writes them to w as those do.
func (h *huffman) codes(w *bitWriter, c *codes, tokens []token) {
	h.count(tokens)
	*c = codes{}
	lits := h.build(c.lit[:literals], h.lit[:], maxCode)
	dists := h.build(c.dist[:distances], h.dist[:], maxCode)
	h.runs = runs(h.runs[:0], c.lit[:lits])
	h.runs = runs(h.runs, c.dist[:dists])
	var freq [codeLengths]uint32
	for _, r := range h.runs {
		freq[r.sym]++
	}
	var lens [codeLengths]uint8
	h.build(lens[:], freq[:], maxLenCode)
	n := codeLengths
	for n > 4 && lens[lengthOrder[n-1]] == 0 {
		n--
	}
	w.put(uint64(lits-257), 5)
	w.put(uint64(dists-1), 5)
	w.put(uint64(n-4), 4)
	for _, i := range lengthOrder[:n] {
		w.put(uint64(lens[i]), 3)
	}
	var e [codeLengths]coded
	assign(e[:], lens[:])
	for _, r := range h.runs {
		w.put(uint64(e[r.sym].bits), int(e[r.sym].n))
		switch r.sym {
		case repeatLength:
			w.put(uint64(r.extra), 2)
		case zeros:
			w.put(uint64(r.extra), 3)
		case manyZeros:
			w.put(uint64(r.extra), 7)
		}
	}
}

// count counts the symbols of the tokens.
func (h *huffman) count(tokens []token) {
	clear(h.lit[:])
	clear(h.dist[:])
	for _, t := range tokens {
		if t.isLiteral() {
			h.lit[t]++
		} else {
			h.lit[lengthSym[t.length()]]++
			h.dist[symbolOfDistance(t.distance())]++
		}
	}
	h.lit[endOfBlock]++
}

// coded is a code as it is written.
type coded struct {
	bits uint16
	n    uint8
}

// assign sets codes for their lengths.
func assign(out []coded, lens []uint8) {
	var count, next [maxCode + 2]int
	for _, l := range lens {
		count[l]++
	}
	count[0] = 0
	code := 0
	for n := 1; n <= maxCode; n++ {
		next[n] = code
		code = (code + count[n]) << 1
	}
	for i, l := range lens {
		out[i] = coded{uint16(reverse(uint32(next[l]), int(l))), l}
		next[l]++
	}
}
