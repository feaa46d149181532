package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// width is the most columns that a line takes.
const width = 100

// A console prints the story: headings, what is said about them, commands, and what these print.
type console struct {
	out     io.Writer
	styled  bool   // it can print bold
	unheard func() // called when it cannot be written to; nil: nothing is
	steps   int

	long, short string // a path, and how it is printed
}

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// step begins a part of the story.
func (c *console) step(title string) {
	c.steps++
	c.print("\n" + c.bold(fmt.Sprintf("%d. %s", c.steps, title)))
}

// say prints a paragraph.
func (c *console) say(format string, args ...any) {
	for _, line := range wrap(c.brief(fmt.Sprintf(format, args...)), width-3) {
		c.print("   " + line)
	}
}

// command prints a command as it would be typed on a machine. A long one is broken before options.
func (c *console) command(machine, line string) {
	prompt := "   " + machine + "$ "
	for i, part := range breakCommand(c.brief(line), width-len(prompt)-2) {
		if i > 0 {
			prompt = strings.Repeat(" ", len(machine)+7)
		}
		c.print(prompt + c.bold(part))
	}
}

// result says in our words what a command did.
func (c *console) result(format string, args ...any) {
	for _, line := range wrap(c.brief(fmt.Sprintf(format, args...)), width-6) {
		c.print("      " + line)
	}
}

// output prints what a command printed, as far as it fits.
func (c *console) output(text string) {
	for line := range strings.Lines(c.brief(text)) {
		line = strings.TrimRight(line, " \n")
		if r := []rune(line); len(r) > width-6 {
			line = string(r[:width-7]) + "…"
		}
		c.print("      " + line)
	}
}

// brief replaces the long path.
func (c *console) brief(text string) string {
	if c.long == "" {
		return text
	}
	return strings.ReplaceAll(text, c.long, c.short)
}

// alarm prints what is not as it should be.
func (c *console) alarm(text string) {
	c.print(c.bold("   !! " + text))
}

func (c *console) print(line string) {
	if _, err := fmt.Fprintln(c.out, line); err != nil && c.unheard != nil {
		c.unheard()
	}
}

func (c *console) bold(s string) string {
	if !c.styled {
		return s
	}
	return "\x1b[1m" + s + "\x1b[0m"
}

// wrap breaks text into lines.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > columns:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// breakCommand breaks a command where it is too long for a line, but not between an option and its value.
func breakCommand(line string, columns int) []string {
	var lines []string
	for word := range strings.SplitSeq(line, " ") {
		last := len(lines) - 1
		switch {
		case last < 0:
			lines = append(lines, word)
		case len(lines[last])+1+len(word) <= columns:
			lines[last] += " " + word
		default:
			head, option, found := cutLast(lines[last], " --")
			if found && !strings.Contains(option, " ") && !strings.HasPrefix(word, "-") {
				lines[last], word = head, "--"+option+" "+word
			}
			lines[last] += " \\"
			lines = append(lines, word)
		}
	}
	return lines
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
