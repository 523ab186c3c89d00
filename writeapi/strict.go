package writeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"cartwright/domain"
	"cartwright/infra/problem"
)

// maxBody is how many bytes a body may have.
const maxBody = 1 << 20

// readBody reads JSON into b, whose shape is known.
func readBody(c *gin.Context, s *shape, mayBeEmpty bool, b any) error {
	if c.Request.ContentLength > maxBody {
		return problem.TooLarge(maxBody)
	}
	raw, err := readAll(c)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return problem.TooLarge(maxBody)
	}
	if err != nil {
		return &domain.Error{Code: domain.Invalid, Reason: "malformed_body", Detail: "The body ended before its end.", Err: err}
	}
	if len(raw) == 0 && mayBeEmpty {
		return nil
	}
	if err := jsonMedia(c.Request.Header); err != nil {
		return err
	}
	return strict(raw, s, b)
}

// readAll reads a body, into the right amount of memory where its length is known.
func readAll(c *gin.Context) ([]byte, error) {
	if c.Request.ContentLength < 0 {
		return io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxBody))
	}
	raw := make([]byte, c.Request.ContentLength)
	_, err := io.ReadFull(c.Request.Body, raw)
	return raw, err
}

// jsonMedia refuses a body that says it is something else than plain JSON in UTF-8.
func jsonMedia(h http.Header) error {
	kind := h.Get("Content-Type")
	if encoding := h.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return problem.Unsupported("something in the encoding " + strconv.Quote(encoding))
	}
	if kind == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(kind)
	if err != nil || media != "application/json" || (params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8")) {
		return problem.Unsupported(strconv.Quote(kind))
	}
	return nil
}

// strict is json.Unmarshal without its leniency: a member that is unknown (or
// known in other letters), a member that comes twice, a value of another kind,
// anything after the value and bytes that are not UTF-8 are all refused, and
// the refusal says where. encoding/json would take all of these but the third
// one way or another. What is taken is what it would have read
// (TestWhatIsTakenIsWhatEncodingJSONReads); it reads while it checks, since
// to have encoding/json do it afterwards costs as much again.
func strict(raw []byte, s *shape, into any) error {
	if !utf8.Valid(raw) {
		return malformed("The body is not UTF-8.")
	}
	if !json.Valid(raw) {
		return malformed("The body is not one JSON value.")
	}
	r := reader{raw: raw}
	if m := r.value(s, reflect.ValueOf(into).Elem()); m != nil {
		return m.refusal()
	}
	return nil
}

func malformed(detail string) error {
	return &domain.Error{Code: domain.Invalid, Reason: "malformed_body", Detail: detail}
}

// A mismatch is where a body is not of its shape. Its pointer grows on the way
// out, so that a good body costs none.
type mismatch struct{ slug, pointer, detail string }

func misplaced(slug, detail string) *mismatch { return &mismatch{slug: slug, detail: detail} }

// under says that m is inside what name names.
func (m *mismatch) under(name string) *mismatch {
	if m != nil {
		m.pointer = "/" + escape(name) + m.pointer
	}
	return m
}

func (m *mismatch) refusal() error {
	return &domain.Error{
		Code: domain.Invalid, Reason: m.slug, Detail: m.detail, Fields: []domain.Field{{Pointer: m.pointer, Detail: m.detail}},
	}
}

// A shape is what a JSON value must look like.
type shape struct {
	kind   reflect.Kind
	fields map[string]*shape // of a struct, which has no more than 64
	bit    uint64            // of a field: one of its own
	index  int               // of a field: which of its struct
	elem   *shape            // of a map or a slice
}

// shapeFor reads the shape off a type made of structs, maps by string, slices,
// pointers, strings, integers and booleans. Bodies are made of nothing else: a
// value of any other kind would be refused, whatever is sent for it.
func shapeFor[B any]() *shape { return shapeOf(reflect.TypeFor[B]()) }

func shapeOf(t reflect.Type) *shape {
	s := &shape{kind: t.Kind()}
	switch t.Kind() { //nolint:exhaustive // the other kinds have nothing inside
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.Slice, reflect.Map:
		s.elem = shapeOf(t.Elem())
	case reflect.Struct:
		s.fields = map[string]*shape{}
		for i := range t.NumField() {
			field := t.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			member := shapeOf(field.Type)
			member.bit, member.index = 1<<len(s.fields), i
			s.fields[name] = member
		}
	}
	return s
}

// reader walks over JSON that is known to be valid.
type reader struct {
	raw []byte
	at  int
}

// value checks the value that comes next, steps over it and puts it into v.
func (r *reader) value(s *shape, v reflect.Value) *mismatch {
	b := r.peek()
	if b == 'n' {
		r.literal() // null is the same as absent; what is required is asked for later
		return nil
	}
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	switch {
	case b == '{' && s.kind == reflect.Struct:
		return r.object(s, v)
	case b == '{' && s.kind == reflect.Map:
		return r.dictionary(s, v)
	case b == '[' && s.kind == reflect.Slice:
		return r.array(s, v)
	case b == '"' && s.kind == reflect.String:
		v.SetString(unquote(r.text()))
		return nil
	case (b == 't' || b == 'f') && s.kind == reflect.Bool:
		v.SetBool(r.literal()[0] == 't')
		return nil
	case (b == '-' || b >= '0' && b <= '9') && (s.kind == reflect.Int64 || s.kind == reflect.Int):
		n, err := strconv.ParseInt(string(r.literal()), 10, 64)
		if err != nil {
			return misplaced("wrong_type", "This is a whole number that fits 64 bits.")
		}
		v.SetInt(n)
		return nil
	}
	return misplaced("wrong_type", "This must be "+s.name()+".")
}

// object reads the members of a struct, each known and there once.
func (r *reader) object(s *shape, v reflect.Value) *mismatch {
	var seen uint64 // a bit a field
	for r.open('{', '}') {
		quoted := r.text()
		r.step(':')
		member := s.field(quoted)
		if member == nil {
			return misplaced("unknown_field", "There is no such field.").under(unquote(quoted))
		}
		if seen&member.bit != 0 {
			return twice(unquote(quoted))
		}
		seen |= member.bit
		if m := r.value(member, v.Field(member.index)); m != nil {
			return m.under(unquote(quoted))
		}
	}
	return nil
}

// field is the member of this name, nil if there is none.
func (s *shape) field(quoted []byte) *shape {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return s.fields[string(quoted[1:len(quoted)-1])] // without a copy of it
	}
	return s.fields[unquote(quoted)]
}

// dictionary reads the members of a map, whose names are the caller's own.
func (r *reader) dictionary(s *shape, v reflect.Value) *mismatch {
	v.Set(reflect.MakeMap(v.Type()))
	for r.open('{', '}') {
		name := unquote(r.text())
		r.step(':')
		key := reflect.ValueOf(name).Convert(v.Type().Key())
		if v.MapIndex(key).IsValid() {
			return twice(name)
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if m := r.value(s.elem, item); m != nil {
			return m.under(name)
		}
		v.SetMapIndex(key, item)
	}
	return nil
}

func twice(name string) *mismatch {
	return misplaced("duplicate_field", "This stands twice in the body.").under(name)
}

func (r *reader) array(s *shape, v reflect.Value) *mismatch {
	for i := 0; r.open('[', ']'); i++ {
		v.Grow(1)
		v.SetLen(i + 1)
		if m := r.value(s.elem, v.Index(i)); m != nil {
			return m.under(strconv.Itoa(i))
		}
	}
	if v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // a list of nothing is a list
	}
	return nil
}

// open steps over a bracket or a comma, and tells whether another item follows.
func (r *reader) open(bracket, end byte) bool {
	switch b := r.peek(); b {
	case end:
		r.at++
		return false
	case bracket, ',':
		r.at++
		if r.peek() == end { // nothing in it
			r.at++
			return false
		}
	}
	return true
}

// peek is the next byte that is not white space. Valid JSON has one wherever it is asked for.
func (r *reader) peek() byte {
	for r.raw[r.at] <= ' ' {
		r.at++
	}
	return r.raw[r.at]
}

func (r *reader) step(b byte) {
	if r.peek() == b {
		r.at++
	}
}

// literal is the number or word that comes next.
func (r *reader) literal() []byte {
	r.peek()
	from := r.at
	for r.at < len(r.raw) && strings.IndexByte(" \t\r\n,]}", r.raw[r.at]) < 0 {
		r.at++
	}
	return r.raw[from:r.at]
}

// text is the string that comes next, with its quotes.
func (r *reader) text() []byte {
	r.peek()
	from := r.at
	for r.at++; r.raw[r.at] != '"'; r.at++ {
		if r.raw[r.at] == '\\' {
			r.at++
		}
	}
	r.at++
	return r.raw[from:r.at]
}

// unquote reads a string that is known to be valid.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // it can't fail: json.Valid has seen it
	return s
}

// escape makes a name part of a JSON pointer.
func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// name is what people call the shape.
func (s *shape) name() string {
	switch s.kind {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "a whole number"
	}
}
