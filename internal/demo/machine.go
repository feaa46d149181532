package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A machine is a computer of the story: a name, and an environment that its programs run in.
type machine struct {
	*console
	name string
	work string   // the folder that commands run in
	bin  string   // the folder of the project's programs
	env  []string // beyond our own environment
}

// export adds to the environment and prints that.
func (m *machine) export(vars ...string) {
	m.env = append(m.env, vars...)
	m.command(m.name, "export "+strings.Join(vars, " "))
}

// A call is a command line.
type call struct {
	program string
	args    []string
	secret  string // for its standard input
	quiet   bool   // it is not printed
	beside  bool   // others run while it does
}

func cmdline(program string, args ...string) call { return call{program: program, args: args} }

// String returns the command line as it would be typed.
func (c call) String() string {
	words := []string{c.program}
	for _, a := range c.args {
		if strings.ContainsAny(a, " *?'\"$&|;<>") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	line := strings.Join(words, " ")
	if c.secret != "" {
		line = `echo "$PASSWORD" | ` + line
	}
	if c.beside {
		line += " &"
	}
	return line
}

// start prints a command and starts it.
func (m *machine) start(c call) (*child, error) {
	if !c.quiet {
		m.command(m.name, c.String())
	}
	program := c.program
	if own := filepath.Join(m.bin, program); isFile(own) {
		program = own
	}
	cmd := exec.Command(program, c.args...)
	cmd.Args[0] = c.program
	cmd.Dir = m.work
	cmd.Env = slices.Concat(os.Environ(), m.env)
	if c.secret != "" {
		cmd.Stdin = strings.NewReader(c.secret + "\n")
	}
	return start(cmd)
}

// run prints a command, runs it, and returns what it printed.
func (m *machine) run(ctx context.Context, c call) (string, error) {
	p, err := m.start(c)
	if err != nil {
		return "", err
	}
	if err := p.wait(ctx); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", fmt.Errorf("%s failed: %w", c, p.failure())
	}
	return p.out.String(), nil
}

// show runs a command and prints what it printed.
func (m *machine) show(ctx context.Context, c call) error {
	text, err := m.run(ctx, c)
	if err != nil {
		return err
	}
	m.output(text)
	return nil
}

// ask runs a command that prints JSON, and reads it.
func ask[T any](ctx context.Context, m *machine, c call) (T, error) {
	var v T
	text, err := m.run(ctx, c)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, fmt.Errorf("read what %q printed: %w", c, err)
	}
	return v, nil
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
