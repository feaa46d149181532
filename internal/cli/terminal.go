package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxSecret bounds what is read as a password or an answer.
const maxSecret = 64 << 10

// Password reads a password: the first line of stdin when fromStdin is set, else from the terminal, twice when confirm is
// set.
func Password(ctx context.Context, fromStdin, confirm bool, prompt string) (string, error) {
	if fromStdin {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, maxSecret)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read password: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", UsageError("there is no password on stdin")
		}
		return line, nil
	}
	p, err := readSecret(ctx, prompt)
	if err != nil || !confirm {
		return p, err
	}
	again, err := readSecret(ctx, "Again: ")
	if err == nil && again != p {
		err = UsageError("the two passwords differ")
	}
	return p, err
}

func readSecret(ctx context.Context, prompt string) (string, error) {
	secret, err := onTerminal(ctx, prompt, "give the password with --password-stdin", func(tty *os.File) (string, error) {
		b, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(tty)
		return string(b), err
	})
	if err == nil && secret == "" {
		err = UsageError("there was no password")
	}
	return secret, err
}

// Confirm asks a question on the terminal and returns whether the answer was yes. Without a terminal it returns an error that
// says what to give instead.
func Confirm(ctx context.Context, question, instead string) (bool, error) {
	answer, err := Ask(ctx, question+" [y/N] ", instead)
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), err
}

// Ask reads a line from the terminal.
func Ask(ctx context.Context, prompt, instead string) (string, error) {
	return onTerminal(ctx, prompt, instead, func(tty *os.File) (string, error) {
		line, err := bufio.NewReader(io.LimitReader(tty, maxSecret)).ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		return strings.TrimSpace(line), err
	})
}

// onTerminal prompts and reads an answer, until ctx ends. Then the terminal is as it was before: an interrupt must not leave
// the user with a terminal that does not show what is typed.
func onTerminal(ctx context.Context, prompt, instead string, read func(tty *os.File) (string, error)) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", UsageError("there is no terminal to ask; %s", instead)
	}
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		tty.Close()
		return "", UsageError("there is no terminal to ask; %s", instead)
	}
	fmt.Fprint(tty, prompt)
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := read(tty)
		answered <- answer{text, err}
	}()
	select {
	case a := <-answered:
		tty.Close()
		if a.err != nil {
			return "", fmt.Errorf("read answer: %w", a.err)
		}
		return a.text, nil
	case <-ctx.Done():
		// Nothing ends a read from a terminal; it ends with the process, which has nothing else to do now.
		err := term.Restore(int(tty.Fd()), before)
		fmt.Fprintln(tty)
		return "", errors.Join(context.Cause(ctx), err)
	}
}
