package readapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"cartwright/projections"
)

// A scope is the query that a cursor belongs to: everything but how much of it
// is wanted at once.
type scope string

func scopeOf(parts ...any) scope {
	var b strings.Builder
	for _, p := range parts {
		_, _ = fmt.Fprintf(&b, "%q ", fmt.Sprint(p)) // quoted, so that no two queries read alike
	}
	return scope(b.String())
}

const macSize = 16

// seal makes a cursor of a place in the query s.
func (a *api) seal(s scope, place []byte) *string {
	text := base64.RawURLEncoding.EncodeToString(append(a.mac(s, place), place...))
	return &text
}

// open gives back the place, if the cursor is one that seal made for s.
func (a *api) open(s scope, cursor string) ([]byte, bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < macSize {
		return nil, false
	}
	place := raw[macSize:]
	return place, hmac.Equal(raw[:macSize], a.mac(s, place))
}

func (a *api) mac(s scope, place []byte) []byte {
	h := hmac.New(sha256.New, a.CursorSecret)
	_, _ = h.Write([]byte(s))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(place)
	return h.Sum(nil)[:macSize]
}

func refuseCursor() error {
	return refuseParameter("cursor_invalid", "cursor", "This cursor was not given out for this query.")
}

// orderCursor reads the request's cursor into a list of orders.
func (a *api) orderCursor(r *request, s scope) (*projections.Cursor, error) {
	text, ok := r.value("cursor")
	if !ok {
		return nil, r.check()
	}
	place, ok := a.open(s, text)
	if !ok || len(place) < 8 {
		return nil, refuseCursor()
	}
	at := int64(binary.BigEndian.Uint64(place)) //nolint:gosec // as it was put in
	return &projections.Cursor{At: time.UnixMicro(at).UTC(), ID: string(place[8:])}, nil
}

// sealOrder makes a cursor of a place among orders. Views keep time to the
// microsecond, so none of it is lost.
func (a *api) sealOrder(s scope, at *projections.Cursor) *string {
	if at == nil {
		return nil
	}
	place := binary.BigEndian.AppendUint64(nil, uint64(at.At.UnixMicro()))
	return a.seal(s, append(place, at.ID...))
}

// entryCursor reads the request's cursor into a statement: the number of the
// entry before it, 0 without one.
func (a *api) entryCursor(r *request, s scope) (int64, error) {
	text, ok := r.value("cursor")
	if !ok {
		return 0, r.check()
	}
	place, ok := a.open(s, text)
	if !ok || len(place) != 8 {
		return 0, refuseCursor()
	}
	return int64(binary.BigEndian.Uint64(place)), nil //nolint:gosec // as it was put in
}

func (a *api) sealEntry(s scope, number int64) *string {
	if number == 0 {
		return nil
	}
	return a.seal(s, binary.BigEndian.AppendUint64(nil, uint64(number))) //nolint:gosec // taken out again
}
