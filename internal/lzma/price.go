package lzma

import "math/bits"

// Prices are in sixteenths of a bit.
const (
	priceBits = 4
	// pricePrecision is how many of the low bits of a probability do not count.
	pricePrecision = 4
	infinite       = 1 << 30 // more than any way through the window
)

// bitPrices has the price of a bit by its probability.
var bitPrices = makeBitPrices()

func makeBitPrices() (t [1 << (probBits - pricePrecision)]uint8) {
	for i := range t {
		p := uint64(i)<<pricePrecision + 1<<pricePrecision/2
		// The logarithm of p in whole numbers, so that every processor has the same: squaring doubles it.
		n := bits.Len64(p) - 1
		log, m := uint32(n), p<<(31-n)
		for range priceBits {
			m = m * m >> 31
			log <<= 1
			if m >= 1<<32 {
				m >>= 1
				log++
			}
		}
		t[i] = uint8(probBits<<priceBits - log)
	}
	return t
}

// price0 and price1 return the price of a bit that is 0, or 1, where p is the probability of a 0.
func price0(p prob) uint32 {
	return uint32(bitPrices[p>>pricePrecision&(1<<(probBits-pricePrecision)-1)])
}
func price1(p prob) uint32 { return price0(p ^ (1<<probBits - 1)) }

func priceOf(p prob, bit uint32) uint32 { return price0(p ^ uint16(-bit)&(1<<probBits-1)) }

func treePrice(p []prob, n int, v uint32) uint32 {
	sum := uint32(0)
	for v |= 1 << n; v > 1; v >>= 1 {
		sum += priceOf(p[v>>1], v&1)
	}
	return sum
}

func reversePrice(p []prob, n int, v uint32) uint32 {
	sum, m := uint32(0), uint32(1)
	for range n {
		b := v & 1
		sum += priceOf(p[m], b)
		m, v = m<<1|b, v>>1
	}
	return sum
}

// prices are those of lengths and distances, as they were when they were last computed.
type prices struct {
	match, rep [posStates][maxMatch + 1]uint16 // by length
	slot       [lenStates][1 << slotBits]uint16
	near       [lenStates][fullDist]uint16 // whole distances
	align      [alignSize]uint16
	age        int // matches coded since
}

// maxAge is how many matches may be coded before prices are computed anew.
const maxAge = 128

func (c *prices) update(m *model) {
	c.age = 0
	m.match.prices(&c.match)
	m.rep.prices(&c.rep)
	for i := range c.align {
		c.align[i] = uint16(reversePrice(m.align[:], alignBits, uint32(i)))
	}
	var special [fullDist]uint16
	for dist := uint32(firstModel); dist < fullDist; dist++ {
		slot := slotOf(dist)
		extra := int(slot>>1 - 1)
		base := (2 | slot&1) << extra
		special[dist] = uint16(reversePrice(m.special[base-slot:], extra, dist-base))
	}
	for class := range lenStates {
		for slot := range uint32(1 << slotBits) {
			p := treePrice(m.slot[class][:], slotBits, slot)
			if slot >= endModel {
				p += (slot>>1 - 1 - alignBits) << priceBits
			}
			c.slot[class][slot] = uint16(p)
		}
		for dist := range uint32(fullDist) {
			c.near[class][dist] = c.slot[class][slotOf(dist)] + special[dist]
		}
	}
}

// distance returns the price of a distance less 1, for a match length of the class.
func (c *prices) distance(class int, dist uint32) uint32 {
	if dist < fullDist {
		return uint32(c.near[class][dist])
	}
	return uint32(c.slot[class][slotOf(dist)]) + uint32(c.align[dist&alignMask])
}

func (l *lengths) prices(t *[posStates][maxMatch + 1]uint16) {
	low := price0(l.choice)
	mid := price1(l.choice) + price0(l.choice2)
	high := price1(l.choice) + price1(l.choice2)
	for s := range t {
		for i := range uint32(lowLens) {
			t[s][minMatch+i] = uint16(low + treePrice(l.low[s][:], 3, i))
			t[s][minMatch+lowLens+i] = uint16(mid + treePrice(l.mid[s][:], 3, i))
		}
	}
	for i := range uint32(highLens) {
		p := uint16(high + treePrice(l.high[:], 8, i))
		for s := range t {
			t[s][minMatch+lowLens+midLens+i] = p
		}
	}
}

// literalPrice returns the price of a byte by the probabilities of its context.
func literalPrice(p *[0x300]prob, c uint32) uint32 {
	sum := uint32(0)
	for m := c | 0x100; m > 1; m >>= 1 {
		sum += priceOf(p[m>>1], m&1)
	}
	return sum
}

// matchedPrice returns the price of a byte behind a match that another byte would have continued.
func matchedPrice(p *[0x300]prob, c, match uint32) uint32 {
	sum := uint32(0)
	m, offs := uint32(1), uint32(0x100)
	for i := 7; i >= 0; i-- {
		match <<= 1
		b := c >> i & 1
		sum += priceOf(p[(offs+match&offs+m)&0x3ff], b)
		m = m<<1 | b
		offs &= ^(match ^ -b)
	}
	return sum
}
