package diskmap

import "slices"

// Keep keeps volumes whole, those that which says, for a reason that is known to the caller alone. Nobody may use the map meanwhile.
func (m *Map) Keep(which func(Volume) bool, why string) {
	for i := range m.volumes {
		v := &m.volumes[i]
		if v.Kept != "" || v.Free == 0 || !which(*v) {
			continue
		}
		v.Kept, v.Free = why, 0
		m.zones = slices.DeleteFunc(m.zones, func(z *zone) bool { return z.in(*v) })
	}
}
