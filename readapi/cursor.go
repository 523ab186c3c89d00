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

// An origin is the query that a cursor belongs to: everything but how much of it
// is wanted at once.
type origin string

func originOf(parts ...any) origin {
	var b strings.Builder
	for _, p := range parts {
		_, _ = fmt.Fprintf(&b, "%q ", fmt.Sprint(p)) // quoted, so that no two queries read alike
	}
	return origin(b.String())
}

const macSize = 16

// seal makes a cursor of a place in a query.
func (a *api) seal(from origin, place []byte) *string {
	text := base64.RawURLEncoding.EncodeToString(append(a.mac(from, place), place...))
	return &text
}

// open gives back the place, if the cursor is one that seal made for this query.
func (a *api) open(from origin, cursor string) ([]byte, bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < macSize {
		return nil, false
	}
	place := raw[macSize:]
	return place, hmac.Equal(raw[:macSize], a.mac(from, place))
}

func (a *api) mac(from origin, place []byte) []byte {
	h := hmac.New(sha256.New, a.CursorSecret)
	_, _ = h.Write([]byte(from))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(place)
	return h.Sum(nil)[:macSize]
}

func refuseCursor() error {
	return refuseParameter("cursor_invalid", "cursor", "This cursor was not given out for this query.")
}

// orderCursor reads the request's cursor into a list of orders.
func (a *api) orderCursor(r *request, from origin) (*projections.Cursor, error) {
	text, ok := r.value("cursor")
	if !ok {
		return nil, r.check()
	}
	place, ok := a.open(from, text)
	if !ok || len(place) < 8 {
		return nil, refuseCursor()
	}
	at := int64(binary.BigEndian.Uint64(place)) //nolint:gosec // as it was put in
	return &projections.Cursor{At: time.UnixMicro(at).UTC(), ID: string(place[8:])}, nil
}

// sealOrder makes a cursor of a place among orders. Views keep time to the
// microsecond, so none of it is lost.
func (a *api) sealOrder(from origin, at *projections.Cursor) *string {
	if at == nil {
		return nil
	}
	place := binary.BigEndian.AppendUint64(nil, uint64(at.At.UnixMicro()))
	return a.seal(from, append(place, at.ID...))
}

// entryCursor reads the request's cursor into a statement: the number of the
// entry before it, 0 without one.
func (a *api) entryCursor(r *request, from origin) (int64, error) {
	text, ok := r.value("cursor")
	if !ok {
		return 0, r.check()
	}
	place, ok := a.open(from, text)
	if !ok || len(place) != 8 {
		return 0, refuseCursor()
	}
	return int64(binary.BigEndian.Uint64(place)), nil //nolint:gosec // as it was put in
}

func (a *api) sealEntry(from origin, number int64) *string {
	if number == 0 {
		return nil
	}
	return a.seal(from, binary.BigEndian.AppendUint64(nil, uint64(number))) //nolint:gosec // taken out again
}
