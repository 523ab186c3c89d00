package esdbnode

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// A linkKind is one of the families of streams that nobody writes to, and whose
// events are links to those of other streams: their names begin with its prefix.
type linkKind struct {
	prefix string
	named  bool                       // a link says in its metadata by which stream it was made
	link   func(*record) (link, bool) // to an event, if there is one
}

const kindsOfLinks = 2

// linkKinds are $ce-<category> and $et-<type>.
func linkKinds() [kindsOfLinks]linkKind {
	return [...]linkKind{{"$ce-", true, categoryLink}, {"$et-", false, kindLink}}
}

// isLinks tells whether a stream is one of links.
func isLinks(stream string) bool {
	for _, k := range linkKinds() {
		if strings.HasPrefix(stream, k.prefix) {
			return true
		}
	}
	return false
}

// refuseLinks is the answer to whoever would write to a stream of links.
func refuseLinks(stream string) error {
	return &refusal{
		codes.PermissionDenied, metadata.Pairs("exception", "access-denied"),
		"access denied: " + stream + " has links that the server makes, and nobody else",
	}
}

// A link is what is kept of one: all that is said of it to whoever does not ask
// for its event too. So it outlives that.
type link struct {
	name     string // what stands behind the prefix
	target   string // number@stream
	source   string // the stream that has the event, where the target is in another
	deletes  bool   // the event deletes its stream
	position uint64 // of the event
	created  int64  // when the event was
}

// categoryLink is the link that goes by what stands before the first dash of a
// stream's name. A link that is in such a stream itself is not linked to: there is
// another that leads where it does.
func categoryLink(r *record) (link, bool) {
	stream, deletes := linkedBy(r)
	category := strings.IndexByte(stream, '-')
	if category <= 0 || strings.HasPrefix(r.stream, metaPrefix) && !deletes {
		return link{}, false
	}
	l := link{name: stream[:category], deletes: deletes, position: r.position, created: r.created}
	if r.kind != typeLink {
		l.target = targetOf(r)
		return l, true
	}
	l.target, l.source = r.data, stream
	_, to, leads := parseTarget(r.data)
	return l, leads && len(to) <= maxName+len(metaPrefix)
}

// kindLink is the link that goes by an event's type.
func kindLink(r *record) (link, bool) {
	stream, deletes := linkedBy(r)
	if stream == "" || r.kind == typeLink {
		return link{}, false
	}
	l := link{name: r.kind, target: targetOf(r), deletes: deletes, position: r.position, created: r.created}
	if deletes {
		l.name = kindDeleted
	}
	return l, true
}

// kindDeleted is what deletions are found by, whatever their type.
const kindDeleted = "$deleted"

// linkedBy is the stream that an event has its links by, that which its metadata
// is about, or nothing: events of system streams have none. deletes tells whether
// the event deletes that stream.
func linkedBy(r *record) (stream string, deletes bool) {
	stream, meta := strings.CutPrefix(r.stream, metaPrefix)
	switch {
	case strings.HasPrefix(stream, "$"):
		return "", false
	case meta:
		return stream, r.kind == typeMetadata && parseLimits(r.data).before == truncatedAll
	}
	return stream, r.kind == typeTombstone
}

func targetOf(r *record) string { return strconv.FormatUint(r.number, 10) + "@" + r.stream }

// parseTarget reads where a link leads.
func parseTarget(target string) (number uint64, stream string, ok bool) {
	n, stream, ok := strings.Cut(target, "@")
	number, err := strconv.ParseUint(n, 10, 63)
	return number, stream, ok && err == nil
}

// A link is stored under its kind's prefix, its name and its number, without any of
// the event's data.
//
//	flags 1 | position 8 | created 8 | len target | target | source
const (
	linkFixed   = 1 + 8 + 8
	linkDeletes = 1 << 0
	linkFlags   = linkDeletes // all there are
)

func (l *link) size() int {
	return linkFixed + uvarintLen(len(l.target)) + len(l.target) + len(l.source)
}

// put writes l's stored form into b, which is l.size long.
func (l *link) put(b []byte) {
	if b[0] = 0; l.deletes {
		b[0] = linkDeletes
	}
	binary.BigEndian.PutUint64(b[1:], l.position)
	binary.BigEndian.PutUint64(b[9:], uint64(l.created)) //nolint:gosec // read back the same way
	at := linkFixed + binary.PutUvarint(b[linkFixed:], uint64(len(l.target)))
	at += copy(b[at:], l.target)
	copy(b[at:], l.source)
}

// getLink reads a link that is stored under a name. It copies b.
func getLink(name string, b []byte) (link, error) {
	if len(b) < linkFixed || b[0]&^linkFlags != 0 {
		return link{}, fmt.Errorf("%d bytes are no link: %w", len(b), errCorrupt)
	}
	target, source, ok := cutString(string(b[linkFixed:]))
	if !ok {
		return link{}, fmt.Errorf("a link's lengths: %w", errCorrupt)
	}
	return link{
		name: name, target: target, source: source, deletes: b[0]&linkDeletes != 0,
		position: binary.BigEndian.Uint64(b[1:]), created: int64(binary.BigEndian.Uint64(b[9:])), //nolint:gosec // written the same way
	}, nil
}

// record is a link as the event that a reader is told of. It stands at the position
// of its event, since it has none of its own.
func (l *link) record(k linkKind, number uint64) record {
	return record{
		position: l.position, number: number, created: l.created, id: l.id(k), stream: k.prefix + l.name,
		kind: typeLink, meta: l.meta(k), data: l.target,
	}
}

// id is the same whenever the link is read: a UUID of version 8, made of the kind
// and the position.
func (l *link) id(k linkKind) (id [16]byte) {
	var of [32]byte
	sum := sha256.Sum256(strconv.AppendUint(append(of[:0], k.prefix...), l.position, 10))
	copy(id[:], sum[:])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

// meta says of the event what EventStoreDB says by the same keys.
func (l *link) meta(k linkKind) string {
	b := append(make([]byte, 0, 128), `{"$c":`...)
	b = strconv.AppendUint(b, l.position, 10)
	b = append(b, `,"$p":`...)
	b = strconv.AppendUint(b, l.position, 10)
	if k.named {
		b = appendJSON(append(b, `,"$o":`...), l.by())
	}
	if l.deletes {
		b = append(b, `,"$deleted":-1`...)
	}
	return string(append(b, '}'))
}

// appendJSON appends a string as JSON, most often as it is.
func appendJSON(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic("a string does not encode: " + err.Error())
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// by is the stream that the link was made by.
func (l *link) by() string {
	if l.source != "" {
		return l.source
	}
	_, stream, _ := strings.Cut(l.target, "@")
	if l.deletes {
		return strings.TrimPrefix(stream, metaPrefix)
	}
	return stream
}

// A link's key is like that of an event's place in its stream.
func linkKeyLen(k linkKind, name string) int {
	n := len(k.prefix) + len(name)
	return 1 + uvarintLen(n) + n + 8
}

func putLinkKey(b []byte, k linkKind, name string, number uint64) {
	b[0] = spaceLinks
	at := 1 + binary.PutUvarint(b[1:], uint64(len(k.prefix)+len(name)))
	at += copy(b[at:], k.prefix)
	at += copy(b[at:], name)
	binary.BigEndian.PutUint64(b[at:], number)
}

func linkKey(k linkKind, name string, number uint64) []byte {
	b := make([]byte, linkKeyLen(k, name))
	putLinkKey(b, k, name, number)
	return b
}

// numberIn is the number at the end of a key.
func numberIn(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// Under this key is the position up to which events have their links of a kind. It
// is not there until somebody has asked for one.
func linkedKey(k linkKind) []byte { return append([]byte{spaceLinked}, k.prefix...) }

func getLinked(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("how far links go: %d bytes: %w", len(b), errCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}

// nobodyLinks stands for a kind of links that nobody has asked for.
const nobodyLinks = uint64(math.MaxUint64)
