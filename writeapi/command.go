package writeapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // a UUIDv5 is made of SHA-1; it guards nothing
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/infra/httpedge"
	"cartwright/infra/problem"
	"cartwright/infra/token"
)

// keyRule says what a route wants of Idempotency-Key.
type keyRule int

const (
	keyIgnored  keyRule = iota // a PUT
	keyOptional                // without one, every request is a command of its own
	keyRequired                // stock or money moves
)

// matchRule says what If-Match means on a route.
type matchRule int

const (
	matchStream   matchRule = iota // the version of a stream that exists, or the command is refused anyway
	matchVersion                   // the same, but the command may begin the stream: * can't be kept
	matchRequired                  // the version must be named
	matchNothing                   // what there is to match does not exist yet
	matchHere                      // the route's own affair
)

// A rule is what a route wants of a request's head.
type rule struct {
	key   keyRule
	match matchRule
	empty bool // no body is a body
}

// A body knows what is wrong with it.
type body interface{ check(f *faults) }

// input is a request that was read.
type input[B body] struct {
	head
	to   target
	body B
}

// head is what a request says of itself.
type head struct {
	req    commands.Request
	keyed  bool // it came with an Idempotency-Key
	match  httpedge.Match
	absent bool // If-None-Match: *
}

// target is what a route's path names.
type target struct {
	sku, account    string
	payment, refund string
	channel, trade  string
	order           orderid.ID
	parcel          int
}

// answer is what a command leads to. Its body is made of the command's own
// events: see the package comment.
type answer struct {
	created  bool
	repeated bool
	etag     string
	location string
	streams  map[string]event.Revision
	body     any
}

// command makes a route of run: head, path and body are read and checked, in
// this order, before it is called.
func command[B body](a *api, rule rule, run func(context.Context, input[B]) (answer, error)) gin.HandlerFunc {
	shape := shapeFor[B]()
	return problem.Handler(a.Log, func(c *gin.Context) error {
		var in input[B]
		var err error
		if in.head, err = a.head(c, rule); err != nil {
			return err
		}
		if in.to, err = readTarget(c); err != nil {
			return err
		}
		if err = readBody(c, shape, rule.empty, &in.body); err != nil {
			return err
		}
		var f faults
		if in.body.check(&f); f.err() != nil {
			return f.err()
		}
		if in.req.Digest, err = a.digest(&in.body); err != nil {
			return err
		}
		out, err := run(c.Request.Context(), in)
		if err != nil {
			return err
		}
		return a.write(c, out)
	})
}

// head reads all of a request but its path and its body.
func (a *api) head(c *gin.Context, rule rule) (h head, err error) {
	key, err := idempotencyKey(c.Request.Header, rule.key)
	if err != nil {
		return h, err
	}
	h.keyed = key != ""
	h.req.Actor, h.req.Trace = principal(c), c.GetHeader(httpedge.TraceHeader)
	h.req.Cause = cause(h.req.Actor, c, key)
	if h.req.At, err = a.happened(c.Request.Header); err != nil {
		return h, err
	}
	if h.match, err = httpedge.IfMatch(c.Request.Header); err != nil {
		return h, err
	}
	if h.absent, err = httpedge.IfNoneMatchAny(c.Request.Header); err != nil {
		return h, err
	}
	return h, precondition(rule.match, &h)
}

// principal is who asks. There are no credentials yet.
func principal(*gin.Context) string { return "anonymous" }

const (
	keyHeader = "Idempotency-Key"
	maxKey    = 255
	atHeader  = "Cartwright-At"
)

func idempotencyKey(h http.Header, rule keyRule) (string, error) {
	keys := h.Values(keyHeader)
	switch {
	case rule == keyIgnored:
		return "", nil
	case len(keys) == 0 && rule == keyRequired:
		return "", refuseHeader("idempotency_key_missing", keyHeader, "This moves stock or money: name the request with an Idempotency-Key, so that sending it again is safe.")
	case len(keys) == 0:
		return "", nil
	}
	if len(keys) > 1 || keys[0] == "" || len(keys[0]) > maxKey || !visible(keys[0]) {
		return "", refuseHeader("idempotency_key_invalid", keyHeader, "An Idempotency-Key is 1 to 255 visible ASCII characters.")
	}
	return keys[0], nil
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func refuseHeader(slug, header, detail string) error {
	e := domain.Refuse(domain.Invalid, slug, "%s", detail)
	e.Fields = []domain.Field{{Pointer: "header:" + header, Detail: detail}}
	return e
}

// happened reads when an import says that it happened.
func (a *api) happened(h http.Header) (time.Time, error) {
	values := h.Values(atHeader)
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if !a.AllowBackdating {
		return time.Time{}, refuseHeader("backdating_off", atHeader, "This server lets nobody say when something happened.")
	}
	at, err := time.Parse(time.RFC3339, values[0])
	if err != nil || len(values) > 1 || at.After(a.Now()) {
		return time.Time{}, refuseHeader("at_invalid", atHeader, "Cartwright-At is a time in RFC 3339, and not in the future.")
	}
	return at.UTC(), nil
}

// precondition turns If-Match into what the command checks, as far as the rule knows.
func precondition(rule matchRule, h *head) error {
	if rule == matchHere {
		return nil
	}
	if h.absent {
		return refuseHeader("if_none_match_malformed", "If-None-Match", "If-None-Match has no meaning for this command.")
	}
	if rule == matchRequired && (!h.match.Sent || h.match.Any) {
		return versionRequired(`Say by If-Match which version this is based on ("v17").`)
	}
	if !h.match.Sent {
		return nil
	}
	if rule == matchNothing {
		return domain.Refuse(domain.Stale, "version_stale", "There is nothing yet that could be at a version.")
	}
	if rule == matchVersion && h.match.Any {
		return refuseHeader("if_match_malformed", "If-Match", `Name the version, such as "v17": this may begin something new.`)
	}
	h.req.IfMatch = expected(h.match)
	return nil
}

// expected is the revision a Match names; nil for *, which whatever exists meets.
func expected(m httpedge.Match) *event.Revision {
	if !m.Sent || m.Any {
		return nil
	}
	at := event.Revision(m.Version)
	return &at
}

func versionRequired(detail string) error {
	return &domain.Error{
		Code: domain.Required, Reason: "if_match_required", Detail: detail,
		Fields: []domain.Field{{Pointer: "header:If-Match", Detail: detail}},
	}
}

// namespace makes causes ours; it is for ever.
var namespace = [16]byte{0x2b, 0x9d, 0x41, 0x7e, 0x5c, 0x0a, 0x4e, 0x11, 0x9a, 0x36, 0xd8, 0x53, 0x0f, 0xb2, 0x64, 0xc7}

// cause names the command. A request without a key is a command of its own.
func cause(principal string, c *gin.Context, key string) string {
	if key == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // it never fails: crypto/rand ends the process first
		return uuid(id, 4)
	}
	name := append(make([]byte, 0, 256), namespace[:]...)
	name = append(append(name, principal...), 0)
	name = append(append(append(append(name, c.Request.Method...), ' '), c.FullPath()...), 0)
	for _, p := range c.Params {
		name = strconv.AppendQuote(name, p.Value)
	}
	name = append(append(name, 0), key...)
	sum := sha1.Sum(name) //nolint:gosec // as the import
	return uuid([16]byte(sum[:16]), 5)
}

// uuid writes id as a UUID of this version.
func uuid(id [16]byte, version byte) string {
	id[6] = id[6]&0x0f | version<<4
	id[8] = id[8]&0x3f | 0x80
	text := [36]byte{8: '-', 13: '-', 18: '-', 23: '-'}
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	return string(text[:])
}

// digestLength is how many bytes of the HMAC are kept: 128 bits.
const digestLength = 16

// digest stands for the body: white space and the order of its members do not matter.
func (a *api) digest(b any) (string, error) {
	w := a.writing()
	defer a.written(w)
	if err := w.json.Encode(b); err != nil {
		return "", fmt.Errorf("canonical form of a %T: %w", b, err)
	}
	w.mac.Reset()
	_, _ = w.mac.Write(w.text.Bytes()[:w.text.Len()-1]) // without the line feed
	var text [2 * digestLength]byte
	hex.Encode(text[:], w.mac.Sum(w.sum[:0])[:digestLength])
	return string(text[:]), nil
}

// A writing is what it takes to write JSON, and to sign it. They are used again.
type writing struct {
	text bytes.Buffer
	json *json.Encoder // into text, as json.Marshal, with a line feed behind it
	mac  hash.Hash
	sum  [sha256.Size]byte
}

func (a *api) writing() *writing {
	if w, ok := a.writings.Get().(*writing); ok {
		return w
	}
	w := &writing{mac: hmac.New(sha256.New, a.DigestSecret)}
	w.json = json.NewEncoder(&w.text)
	return w
}

// maxKept is the most that is kept of memory for one text.
const maxKept = 64 << 10

func (a *api) written(w *writing) {
	if w.text.Cap() <= maxKept {
		w.text.Reset()
		a.writings.Put(w)
	}
}

// readTarget reads the path. The names of its parameters say what they are.
func readTarget(c *gin.Context) (target, error) {
	var to target
	var f faults
	for _, p := range c.Params {
		at := "path:" + p.Key
		switch p.Key {
		case "sku":
			to.sku = p.Value
			f.add(domain.CheckSKU(at, p.Value))
		case "account_id":
			to.account = p.Value
			f.add(account.CheckID(at, p.Value))
		case "payment_id":
			to.payment = p.Value
			f.add(domain.CheckID(at, p.Value))
		case "channel":
			to.channel = p.Value
			f.add(payment.CheckChannel(at, p.Value))
		case "trade":
			to.trade = p.Value
			f.text(at, p.Value, maxCarrier)
		case "refund":
			to.refund = p.Value
			f.add(domain.CheckID(at, p.Value))
		case "order_id":
			to.order = f.order(at, p.Value)
		case "parcel":
			n, err := strconv.Atoi(p.Value)
			f.require(err == nil && n >= 1 && strconv.Itoa(n) == p.Value, "invalid_id", at, "A parcel's number is 1, 2, 3, …")
			to.parcel = n
		}
	}
	return to, f.err()
}

// write sends an answer.
func (a *api) write(c *gin.Context, out answer) error {
	w := a.writing()
	defer a.written(w)
	if err := w.json.Encode(out.body); err != nil {
		return fmt.Errorf("encode a %T: %w", out.body, err)
	}
	status := http.StatusOK
	if out.created {
		status = http.StatusCreated
	} else {
		out.location = ""
	}
	set(c, "ETag", out.etag)
	set(c, "Location", out.location)
	set(c, token.Header, token.Encode(out.streams))
	if out.repeated {
		c.Header("Idempotent-Replayed", "true")
	}
	c.Data(status, "application/json; charset=utf-8", w.text.Bytes())
	return nil
}

func set(c *gin.Context, header, value string) {
	if value != "" {
		c.Header(header, value)
	}
}
