package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// serveFolder is a web server for the peers that fetch from one. It prints its address.
func serveFolder(dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	files := http.FileServer(http.Dir(dir))
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && strings.Contains(asked, ",") {
			if err := serveRanges(w, filepath.Join(dir, filepath.Clean("/"+r.URL.Path)), strings.Split(asked, ",")); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
		files.ServeHTTP(w, r)
	}))
}

// serveRanges answers with several ranges of a file, as nginx and Apache do: with an empty line before the first one. zsync waits
// for that line for ever; net/http sends none.
func serveRanges(w http.ResponseWriter, name string, ranges []string) error {
	const boundary = "00000000000000000020"
	d, err := openDisk(name)
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return err
	}
	defer d.Close()
	var parts []io.Reader
	var length int64
	add := func(r io.Reader, n int64) { parts, length = append(parts, r), length+n }
	text := func(s string) { add(strings.NewReader(s), int64(len(s))) }
	for _, asked := range ranges {
		first, last, _ := strings.Cut(strings.TrimSpace(asked), "-")
		from, err1 := strconv.ParseInt(first, 10, 64)
		to, err2 := strconv.ParseInt(last, 10, 64)
		if err := errors.Join(err1, err2); err != nil || from < 0 || to < from || from >= d.size {
			http.Error(w, "no such range", http.StatusRequestedRangeNotSatisfiable)
			return fmt.Errorf("range %q: %w", asked, err)
		}
		to = min(to, d.size-1)
		text(fmt.Sprintf("\r\n--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %d-%d/%d\r\n\r\n", boundary, from, to, d.size))
		add(io.NewSectionReader(d, from, to-from+1), to-from+1)
	}
	text("\r\n--" + boundary + "--\r\n")
	w.Header().Set("Content-Type", "multipart/byteranges; boundary="+boundary)
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(http.StatusPartialContent)
	_, err = io.Copy(w, io.MultiReader(parts...))
	return err
}
