// Package token is the codec of Cartwright-Token, which says what a reader must
// have seen: streams with revisions, opaque to whoever carries it.
//
// # Why
//
// A position in the log would be shorter, but proves nothing: partitions of the
// bus advance apart, so a view can be past a position and still lack a stream's
// event. A token carries a checksum and no signature. It grants nothing, the
// worst a forged one does is to make its own bearer wait; and the write and the
// read side may be two processes that share no secret. The checksum is there so
// that a token cut short by a log viewer is refused and not obeyed in part
// (TestADamagedTokenIsRefused).
package token

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"

	"cartwright/domain"
	"cartwright/domain/event"
)

// Header is where a command's answer gives a token and a query takes it.
const Header = "Cartwright-Token"

// What Decode takes: the largest checkout's streams fit with room to spare.
const (
	maxLength  = 64 << 10
	maxStreams = 1024
	format     = 1
)

// castagnoli is the polynomial with an instruction of its own on our machines.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode gives the token of streams; "" where there are none. The same streams
// make the same token.
func Encode(streams map[string]event.Revision) string {
	if len(streams) == 0 {
		return ""
	}
	const each = 64 // bytes, about, of a name and a revision
	raw := append(make([]byte, 0, (len(streams)+1)*each), format)
	names := slices.AppendSeq(make([]string, 0, len(streams)), maps.Keys(streams))
	slices.Sort(names)
	for _, name := range names {
		raw = binary.AppendUvarint(raw, uint64(len(name)))
		raw = append(raw, name...)
		raw = binary.AppendUvarint(raw, uint64(streams[name]))
	}
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Decode gives back what Encode was given, and nil for "".
func Decode(token string) (map[string]event.Revision, error) {
	if token == "" {
		return nil, nil
	}
	if len(token) > maxLength {
		return nil, refuse("it is too long")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < 6 || raw[0] != format {
		return nil, refuse("it is none of ours")
	}
	body, sum := raw[:len(raw)-4], raw[len(raw)-4:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return nil, refuse("it is damaged")
	}
	return streams(body[1:])
}

func streams(body []byte) (map[string]event.Revision, error) {
	all := map[string]event.Revision{}
	for len(body) > 0 {
		length, n := binary.Uvarint(body)
		if n <= 0 || length == 0 || length > uint64(len(body)-n) { //nolint:gosec // n is no more than body has
			return nil, refuse("it is damaged")
		}
		name := string(body[n : n+int(length)]) //nolint:gosec // no longer than body, which is a slice
		body = body[n+int(length):]             //nolint:gosec // as above
		rev, n := binary.Uvarint(body)
		if n <= 0 || len(all) == maxStreams {
			return nil, refuse("it is damaged")
		}
		all[name] = event.Revision(rev)
		body = body[n:]
	}
	return all, nil
}

func refuse(why string) error {
	e := domain.Refuse(domain.Invalid, "token_invalid", "This Cartwright-Token cannot be used: %s.", why)
	e.Fields = []domain.Field{{Pointer: "header:" + Header, Detail: e.Detail}}
	return e
}
