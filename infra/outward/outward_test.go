package outward_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cartwright/domain"
	"cartwright/infra/outward"
)

// body is an answer's, which notes whether it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error { b.closed = true; return nil }

func TestAnAnswerIsReadWholeOrNotAtAll(t *testing.T) {
	for name, tt := range map[string]struct {
		from io.Reader
		ok   bool
	}{
		"as much as may be": {strings.NewReader(strings.Repeat("a", 8)), true},
		"a byte more":       {strings.NewReader(strings.Repeat("a", 9)), false},
		"broken off":        {io.MultiReader(strings.NewReader("a"), brokenOff{}), false},
	} {
		b := &body{Reader: tt.from}
		resp := &http.Response{Body: b}
		err := outward.Whole(resp, 8)
		if (err == nil) != tt.ok || !b.closed {
			t.Errorf("%s: %v, closed %v", name, err, b.closed)
			continue
		}
		if text, err := io.ReadAll(resp.Body); tt.ok && (err != nil || len(text) != 8) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAClientThatIsGivenIsNotChanged(t *testing.T) {
	wrapped := 0
	wrap := func(next http.RoundTripper) http.RoundTripper { wrapped++; return next }
	given := &http.Client{Timeout: time.Minute}
	if got := outward.Client(given, wrap); got == given || got.Timeout != time.Minute || given.Transport != nil || got.Transport == nil {
		t.Errorf("got %+v of %+v", got, given)
	}
	if got := outward.Client(nil, wrap); got.Timeout != 10*time.Second || wrapped != 2 {
		t.Errorf("got %+v, wrapped %d times", got, wrapped)
	}
}

func TestWhatIsOpenIsToldFromWhatIsRefused(t *testing.T) {
	cause := errors.New("down")
	open := outward.Unavailable("The bank", "pay", cause)
	if domain.CodeOf(open) != domain.Unavailable || domain.ReasonOf(open) != "channel_unavailable" || !errors.Is(open, cause) {
		t.Error(open)
	}
	if no := outward.Refuse("no %d", 1); domain.CodeOf(no) != domain.Rejected || domain.ReasonOf(no) != "channel_refused" {
		t.Error(no)
	}
	if got := outward.Cut(strings.Repeat("ü", 101)+"x", outward.MaxWords); !utf8.ValidString(got) || len(got) > 200 || outward.Cut("ü", 2) != "ü" {
		t.Errorf("%q", got)
	}
	if got := outward.Cut("a"+strings.Repeat("ü", 101), outward.MaxWords); !utf8.ValidString(got) || len(got) != 199 {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
