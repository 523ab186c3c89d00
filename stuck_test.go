package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatIsNotParkedCannotBeTakenUpOrGivenUp(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	sweep(t, data)
	for _, line := range [][]string{
		{"redrive", "--stream", "order-1"}, {"show", "--stream", "order-1"}, {"drop", "--stream", "order-1", "--reason", "x"},
	} {
		line = append([]string{"park"}, append(line, "--view", processView, "--data", data)...)
		if out, code := tool(t, line...); code != exitFailed {
			t.Errorf("%q: exit %d: %s", line, code, out)
		}
	}
	if out, code := tool(t, "park", "list", "--view", processView, "--data", data); code != 0 || out != "" {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestOneFileMayBeNamedForTwoThings(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(name, []byte("both"), 0o600); err != nil {
		t.Fatal(err)
	}
	var key, certificate, none []byte
	if err := readFiles([]keyFile{{name, &key}, {"", &none}, {name, &certificate}}); err != nil {
		t.Fatal(err)
	}
	if string(key) != "both" || string(certificate) != "both" || none != nil {
		t.Errorf("%q, %q and %q", key, certificate, none)
	}
	if err := readFiles([]keyFile{{name + "x", &key}}); err == nil {
		t.Error("a file that is not there was read")
	}
}
