package vhd

// Discard makes length bytes from off read as zeros. It serves both what block devices call "write zeros" and "trim": the
// range reads as zeros afterwards, with the guarantees of [Disk.WriteAt], and no more is stored for that than must be.
//
//   - A block that no member of the chain holds stays so, and nothing is written.
//   - Where the leaf holds data, zeros are written over it; no block is given back.
//   - Where only an ancestor holds data, the leaf stores zeros to hide it.
//   - In a fixed leaf the zeros are written.
func (d *Disk) Discard(off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writable(off, length); err != nil {
		return err
	}
	end := off + length
	start, stop := roundUp(off, sectorSize), end/sectorSize*sectorSize
	if start > stop {
		start, stop = end, end // within one sector
	}
	for _, edge := range [...]span{{off, start}, {stop, end}} {
		if edge.end == edge.start {
			continue
		}
		if e, err := d.chain.lookup(edge.start, edge.end-edge.start); err != nil {
			return err
		} else if e.Member < 0 {
			continue
		}
		whole, at, err := d.wholeSectors(make([]byte, edge.end-edge.start), edge.start)
		if err != nil {
			return err
		}
		if err := d.put(whole, at); err != nil {
			return err
		}
	}
	return d.hide(0, start, stop)
}

// hide writes zeros to the sectors from off to end that the members from level on hold.
func (d *Disk) hide(level int, off, end int64) error {
	var zeros []byte
	for off < end {
		e, err := lookup(d.chain.members[level:], off, end-off)
		if err != nil {
			return err
		}
		for n := e.Length; n > 0; {
			part := min(n, zeroChunk)
			if e.Member >= 0 {
				if zeros == nil {
					zeros = make([]byte, min(end-off, zeroChunk))
				}
				if err := d.put(zeros[:part], off); err != nil {
					return err
				}
			}
			off, n = off+part, n-part
		}
	}
	return nil
}
