package vhd_test

import (
	"fmt"

	"disksync/vhd"
)

// damagedDisk is a file in memory whose footer at the end is gone, as a crash leaves it.
func damagedDisk() *memFile {
	f := &memFile{}
	o := vhd.CreateOptions{Size: 64 << 20, UUID: newUUID(1)}
	if err := vhd.Create(f, o); err != nil {
		panic(err)
	}
	f.data = f.data[:len(f.data)-vhd.FooterSize]
	return f
}

func ExampleCheck() {
	f := damagedDisk()
	rep, err := vhd.Check(f, f.size(), vhd.CheckOptions{Bitmaps: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range rep.Findings {
		fmt.Printf("%s: %v; repairable: %t\n", e.Fault.Severity(), e, e.Fault.Repairable())
	}
	// Output:
	// warning: vhd: no footer at the end, its copy at the start was used (at offset 1536); repairable: true
}

func ExampleRepair() {
	f := damagedDisk()
	res, err := vhd.Repair(f, f.size(), vhd.RepairOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range res.Mended {
		fmt.Println("mended:", e.Fault)
	}
	fmt.Println("left:", len(res.Left))
	// Output:
	// mended: no footer at the end, its copy at the start was used
	// left: 0
}

func ExampleSetFields() {
	f := &memFile{}
	if err := vhd.Create(f, vhd.CreateOptions{Size: 64 << 20, UUID: newUUID(1)}); err != nil {
		fmt.Println(err)
		return
	}
	hidden := uint8(1)
	if err := vhd.SetFields(f, f.size(), vhd.Fields{Hidden: &hidden}); err != nil {
		fmt.Println(err)
		return
	}
	m, err := vhd.Open(f, f.size())
	fmt.Println(m.Footer().Hidden, err)
	// Output: 1 <nil>
}

func ExampleRelink() {
	f := &memFile{}
	o := vhd.CreateOptions{Size: 64 << 20, UUID: newUUID(2), Parent: &vhd.Parent{UUID: newUUID(1), Path: "old.vhd"}}
	if err := vhd.Create(f, o); err != nil {
		fmt.Println(err)
		return
	}
	p := vhd.Parent{UUID: newUUID(1), Path: "archive/new.vhd"}
	if _, err := vhd.Relink(f, f.size(), p, vhd.RelinkOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	m, err := vhd.Open(f, f.size())
	fmt.Println(m.ParentPaths()[0], err)
	// Output: ./archive/new.vhd <nil>
}
