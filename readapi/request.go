package readapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/orderid"
	"cartwright/infra/httpedge"
	"cartwright/infra/token"
)

// A request is a query that was read. Its methods collect what is wrong with
// its parameters; check tells.
type request struct {
	id     string // of what the path names
	values url.Values
	token  map[string]event.Revision
	faults []domain.Field
}

// answer is what a query leads to.
type answer struct {
	etag string // "" where the answer has no version
	body any
}

// read takes a request apart. A parameter that nobody knows is refused: a
// filter with a slip in its name would otherwise give everything.
func read(c *gin.Context, known []string) (*request, error) {
	values, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, &domain.Error{Code: domain.Invalid, Reason: "invalid_parameter", Detail: "The query can't be read.", Err: err}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, name) {
			return nil, refuseParameter("unknown_parameter", name, "There is no such parameter.")
		}
	}
	seen, err := tokens(c.Request.Header)
	if err != nil {
		return nil, err
	}
	id, err := pathID(c.Params)
	return &request{id: id, values: values, token: seen}, err
}

// tokens reads what the reader has seen. Who has sent several commands may send
// all their tokens, in several headers or in one with commas.
func tokens(h http.Header) (map[string]event.Revision, error) {
	seen := map[string]event.Revision{}
	for _, header := range h.Values(token.Header) {
		for one := range strings.SplitSeq(header, ",") {
			streams, err := token.Decode(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			for stream, at := range streams {
				seen[stream] = max(seen[stream], at)
			}
		}
	}
	return seen, nil
}

// pathID is the one parameter that every path here has, checked by its name.
func pathID(params gin.Params) (string, error) {
	p := params[0]
	at := "path:" + p.Key
	switch p.Key {
	case "sku":
		return p.Value, domain.CheckSKU(at, p.Value)
	case "order_id":
		id, err := orderid.Parse(p.Value)
		if e, ok := errors.AsType[*domain.Error](err); ok {
			e.Fields = []domain.Field{{Pointer: at, Detail: e.Detail}}
		}
		return string(id), err
	case "account_id":
		return p.Value, account.CheckID(at, p.Value)
	default:
		return p.Value, domain.CheckID(at, p.Value)
	}
}

func refuseParameter(slug, name, detail string) error {
	return &domain.Error{
		Code: domain.Invalid, Reason: slug, Detail: detail, Fields: []domain.Field{{Pointer: "query:" + name, Detail: detail}},
	}
}

func (r *request) fault(name, detail string) {
	r.faults = append(r.faults, domain.Field{Pointer: "query:" + name, Detail: detail})
}

// check tells what was wrong, all of it at once.
func (r *request) check() error {
	if len(r.faults) == 0 {
		return nil
	}
	return &domain.Error{Code: domain.Invalid, Reason: "invalid_parameter", Detail: r.faults[0].Detail, Fields: r.faults}
}

// value is a parameter that may come once, and not empty; ok says that it is there.
func (r *request) value(name string) (value string, ok bool) {
	switch values := r.values[name]; {
	case len(values) == 0:
		return "", false
	case len(values) > 1 || values[0] == "":
		r.fault(name, "This is given once, and not empty.")
		return "", false
	default:
		return values[0], true
	}
}

// oneOf is a parameter that is one of some words, or "".
func (r *request) oneOf(name string, words ...string) string {
	v, ok := r.value(name)
	if ok && !slices.Contains(words, v) {
		r.fault(name, "This is one of "+strings.Join(words, ", ")+".")
	}
	return v
}

// time is a parameter in RFC 3339, a full date standing for its midnight in UTC.
func (r *request) time(name string) time.Time {
	v, ok := r.value(name)
	if !ok {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, v)
	if err != nil {
		at, err = time.Parse(time.DateOnly, v)
	}
	if err != nil || at.IsZero() {
		r.fault(name, "This is a time in RFC 3339, such as 2018-01-31T00:00:00Z or 2018-01-31.")
	}
	return at.UTC()
}

// span is [from, to), either of which may be open.
func (r *request) span() (from, to time.Time) {
	from, to = r.time("from"), r.time("to")
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		r.fault("to", "This is not before from.")
	}
	return from, to
}

const (
	defaultLimit = 20
	maxLimit     = 100
	maxText      = 200 // characters of a text to search for
)

func (r *request) limit() int {
	v, ok := r.value("limit")
	if !ok {
		return defaultLimit
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxLimit || strconv.Itoa(n) != v {
		r.fault("limit", "This is a whole number from 1 to 100.")
	}
	return n
}

func (r *request) text(name string) string {
	v, _ := r.value(name)
	if err := domain.CheckText(name, v, maxText); err != nil {
		r.fault(name, "This is text of at most 200 characters.")
	}
	return v
}

// write sends an answer, or says that the reader has it already.
func (a *api) write(c *gin.Context, out answer) error {
	c.Header("Cache-Control", "private, no-cache") // keep it if you like, but ask
	if out.etag != "" {
		c.Header("ETag", out.etag)
		if httpedge.NotModified(c.Request.Header, out.etag) {
			c.Status(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
			return nil
		}
	}
	text, _ := a.texts.Get().(*bytes.Buffer)
	defer a.texts.Put(text)
	text.Reset()
	if err := json.NewEncoder(text).Encode(out.body); err != nil {
		return fmt.Errorf("encode a %T: %w", out.body, err)
	}
	c.Header("Content-Length", strconv.Itoa(text.Len())) // or a long answer would go in chunks
	c.Data(http.StatusOK, "application/json; charset=utf-8", text.Bytes())
	return nil
}
