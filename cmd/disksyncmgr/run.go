package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"disksync/endpoint"
	"disksync/hypervisor"
	"disksync/internal/cli"
	"disksync/internal/problem"
)

// stateOf says what a VM does, in a few words.
func stateOf(v endpoint.VMInfo) string {
	s := string(v.Run.State)
	if v.Downloading {
		s += ", downloading"
	}
	if v.Pending != 0 {
		s += fmt.Sprintf(", %d next", v.Pending)
	}
	return s
}

// runFlags are the flags of run.
type runFlags struct {
	endpoint.RunOptions
	network, display, define string
	save, discard            bool
	console, detach, asJSON  bool
}

func newRun(o *options) *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use: "run [VM]", Short: "Start a VM", Args: cobra.MaximumNArgs(1),
		Long: `Starts a VM under QEMU, with KVM where the machine has it, on disks that the service serves, and waits for
its end. An interrupt leaves it running; with --standalone it is asked to shut down first, since its disks
are served here. A VM that is paused goes on.

A pending update becomes the VM's version before it starts. The system disk of a dynamic VM is as it was
published at each start, unless --save-changes was given for it.

With --define the VM is not started: libvirt is told of it, or a configuration for Xen's xl is written.
Whoever starts it there gets its disks from the service.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if f.detach && o.standalone {
				return problem.New("DS-STANDALONE", problem.Usage, nil, "without the service nobody serves the VM's disks in the background", "it was not started",
					"start the service, or leave --detach out")
			}
			return o.with(cmd.Context(), func(d door) error { return f.run(cmd, d, optional(args), o.standalone) })
		},
	}
	c.Flags().BoolVar(&f.console, "console", false, "connect this terminal with the VM's serial console; Ctrl-] leaves it")
	c.Flags().BoolVar(&f.detach, "detach", false, "do not wait for the VM's end")
	c.Flags().Int64Var(&f.Memory, "memory", 0, "`MiB`; default what the image says, or 2048")
	c.Flags().IntVar(&f.CPUs, "cpus", 0, "default what the image says, or 2")
	c.Flags().StringVar(&f.network, "network", "", "nat, bridge or none; where the image says which, only none can be chosen instead")
	c.Flags().StringVar(&f.Bridge, "bridge", "", "`name` of the bridge of this machine, for a network of that kind")
	c.Flags().StringVar(&f.display, "display", "", "none (default), vnc, or with --standalone gtk or sdl")
	c.Flags().BoolVar(&f.save, "save-changes", false, "from now on a dynamic VM keeps its system disk as it is when it starts")
	c.Flags().BoolVar(&f.discard, "discard-changes", false, "no longer: the system disk is as published at this start and later ones")
	c.Flags().StringVar(&f.define, "define", "", "give the VM to libvirt or xl instead; none takes it back")
	c.Flags().StringVar(&f.Connect, "connect", "", "`URI` of libvirt (default qemu:///system)")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print the VM as JSON")
	return c
}

// check reads what the flags say.
func (f *runFlags) check() error {
	if err := f.Network.UnmarshalText([]byte(f.network)); err != nil {
		return cli.UsageError("%v", err)
	}
	f.Display = hypervisor.Display(f.display)
	if err := new(hypervisor.Display).UnmarshalText([]byte(f.display)); err != nil {
		return cli.UsageError("%v", err)
	}
	f.Define = endpoint.Hypervisor(f.define)
	switch f.Define {
	case "", endpoint.Libvirt, endpoint.XL, endpoint.Nobody:
	default:
		return cli.UsageError("--define %s: want libvirt, xl or none", f.define)
	}
	switch {
	case f.save && f.discard:
		return cli.UsageError("--save-changes and --discard-changes exclude one another")
	case f.save || f.discard:
		f.SaveChanges = &f.save
	case f.console && (f.detach || f.Define != ""):
		return cli.UsageError("--console is for a VM that is started and waited for")
	}
	return nil
}

func (f *runFlags) run(cmd *cobra.Command, d door, name string, standalone bool) error {
	v, err := d.RunVM(cmd.Context(), name, f.RunOptions)
	if err != nil {
		return err
	}
	for _, n := range v.Run.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", problem.Printable(n))
	}
	if f.asJSON {
		if err := cli.JSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	}
	switch {
	case f.Define == endpoint.Nobody:
		return nil
	case f.Define != "":
		if !f.asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), "VM %s is defined for %s\n", v.Name, f.Define)
		}
		if !standalone {
			return nil
		}
		<-cmd.Context().Done() // the disks are served here
		return context.Cause(cmd.Context())
	case !f.asJSON && !f.console:
		fmt.Fprintf(cmd.OutOrStdout(), "VM %s runs, process %d\n", v.Name, v.Run.Pid)
	}
	if f.detach {
		return nil
	}
	return stay(cmd, d, v.Name, f.console, standalone)
}

// stay waits for the end of a VM. An interrupt leaves it running; where its disks are served by this process, it is asked to end.
func stay(cmd *cobra.Command, d door, name string, console, standalone bool) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if console {
		t, err := cli.OpenConsole(cancel)
		if err != nil {
			return err
		}
		defer t.Close()
		go func() { _ = d.Console(ctx, name, t) }() // the VM's end is what ends it
	}
	err := d.AwaitVM(ctx, name)
	if ctx.Err() == nil || !standalone {
		if ctx.Err() != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "VM %s goes on; `disksyncmgr stop %s` ends it\n", name, name)
			return nil
		}
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "VM %s is asked to shut down; its disks are served here\n", name)
	return d.StopVM(context.WithoutCancel(cmd.Context()), name, false)
}

func newStop(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "stop [VM]", Short: "Ask a VM to shut down, and wait until it has", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error { return d.StopVM(cmd.Context(), optional(args), force) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "end it at once, as a loss of power does")
	return c
}

func newConsole(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "console [VM]", Short: "Connect this terminal with the serial console of a running VM", Args: cobra.MaximumNArgs(1),
		Long: `Connects this terminal with the serial console of a VM that runs. What the guest printed last comes first.
Ctrl-] leaves it, and the VM goes on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				ctx, cancel := context.WithCancel(cmd.Context())
				defer cancel()
				t, err := cli.OpenConsole(cancel)
				if err != nil {
					return err
				}
				defer t.Close()
				err = d.Console(ctx, optional(args), t)
				if ctx.Err() != nil {
					return context.Cause(cmd.Context()) // nil when the user has left
				}
				return err
			})
		},
	}
}

func newBootTrace(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "boot-trace [VM]", Short: "Print which blocks a running VM has read since its start", Args: cobra.MaximumNArgs(1),
		Long: `Prints which blocks a VM has read since it was started, in their order, as JSON. Let a VM of the newest version
start, wait until its user could work, and give the list to
    synchronizer image publish IMAGE ... --boot-trace FILE
Endpoints then fetch these blocks first, so that the VM can start long before all of it is there.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				trace, err := d.BootTrace(cmd.Context(), optional(args))
				if err != nil {
					return err
				}
				return cli.JSON(cmd.OutOrStdout(), trace)
			})
		},
	}
}
