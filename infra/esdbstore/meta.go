package esdbstore

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/event"
)

// The keys of our metadata. The two with a dollar are EventStoreDB's own, by
// which its projections and its user interface find what belongs together.
const (
	keyCorrelation = "$correlationId"
	keyCause       = "$causationId"
	keyVersion     = "version"
	keyDigest      = "digest"
	keyActor       = "actor"
	keyAt          = "at"
	keyTrace       = "traceparent"
	keyCreated     = "created" // when the log took it that the event was copied from
)

// stored is the metadata as JSON. It is what appendMeta writes by hand
// (TestHandWrittenMetadataIsWhatEncodingJSONMakesOfIt).
type stored struct {
	Correlation string    `json:"$correlationId"`
	Cause       string    `json:"$causationId"`
	Version     int       `json:"version"`
	Digest      string    `json:"digest"`
	Actor       string    `json:"actor"`
	At          time.Time `json:"at"`
	Trace       string    `json:"traceparent"`
	Created     time.Time `json:"created"`
}

// appendMeta writes an event's metadata, leaving out what is empty.
func appendMeta(b []byte, e *event.Recorded) []byte {
	b = append(b, '{')
	b = appendText(b, keyCorrelation, e.Correlation)
	b = appendText(b, keyCause, e.Cause)
	if e.Version > 0 {
		b = appendKey(b, keyVersion)
		b = strconv.AppendInt(b, int64(e.Version), 10)
	}
	b = appendText(b, keyDigest, e.Digest)
	b = appendText(b, keyActor, e.Actor)
	if !e.At.IsZero() {
		b = appendKey(b, keyAt)
		b = append(b, '"')
		b = e.At.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = appendText(b, keyTrace, e.Trace)
	return append(b, '}')
}

func appendKey(b []byte, key string) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

func appendText(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = appendKey(b, key)
	if plain(value) {
		b = append(b, '"')
		b = append(b, value...)
		return append(b, '"')
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic("a string does not encode: " + err.Error())
	}
	return append(b, text...)
}

// plain tells whether a string stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// readMeta fills in what metadata says. What somebody else has written, or what
// is no JSON at all, leaves an event of version 1 that says nothing more.
func readMeta(raw []byte, e *event.Recorded) {
	e.Version = 1
	if len(raw) == 0 {
		return
	}
	m, ok := scanMeta(string(raw))
	if !ok {
		m = stored{}
		if json.Unmarshal(raw, &m) != nil {
			return
		}
	}
	e.Correlation, e.Cause, e.Digest, e.Actor, e.Trace = m.Correlation, m.Cause, m.Digest, m.Actor, m.Trace
	e.Version = max(1, m.Version)
	if !m.At.IsZero() {
		e.At = m.At.UTC()
	}
	if !m.Created.IsZero() {
		e.Created = m.Created.UTC()
	}
}

// withCreated adds to metadata when the event was stored, behind all that it
// says already and without a change to that. Metadata that says so already, of
// an event that is copied a second time, stays as it is. So does metadata that is
// no JSON object, for which ok is false.
func withCreated(meta []byte, created time.Time) (out []byte, ok bool) {
	text := bytes.TrimSpace(meta)
	if len(text) == 0 {
		text = []byte("{}")
	}
	if m, ours := scanMeta(string(text)); ours {
		if !m.Created.IsZero() {
			return meta, true
		}
	} else {
		var others map[string]json.RawMessage
		if json.Unmarshal(text, &others) != nil || others == nil {
			return meta, false
		}
		if _, said := others[keyCreated]; said {
			return meta, true
		}
	}
	body := bytes.TrimRight(text[:len(text)-1], " \t\r\n")
	out = append(make([]byte, 0, len(body)+64), body...)
	if len(body) > 1 {
		out = append(out, ',')
	}
	out = append(out, `"`+keyCreated+`":"`...)
	out = created.UTC().AppendFormat(out, time.RFC3339Nano)
	return append(out, '"', '}'), true
}

// scanMeta reads metadata in the form in which appendMeta writes it, and gives
// up on any other.
func scanMeta(s string) (m stored, ok bool) {
	s, ok = strings.CutPrefix(s, "{")
	for ok && s != "}" {
		var key, value string
		if key, s, ok = cutText(s); !ok {
			break
		}
		if s, ok = strings.CutPrefix(s, ":"); !ok {
			break
		}
		if key == keyVersion {
			value, s, ok = cutDigits(s)
		} else {
			value, s, ok = cutText(s)
		}
		if !ok || !m.set(key, value) {
			return stored{}, false
		}
		if s == "}" {
			return m, true
		}
		s, ok = strings.CutPrefix(s, ",")
	}
	return m, ok
}

func (m *stored) set(key, value string) bool {
	var err error
	switch key {
	case keyCorrelation:
		m.Correlation = value
	case keyCause:
		m.Cause = value
	case keyVersion:
		m.Version, err = strconv.Atoi(value)
	case keyDigest:
		m.Digest = value
	case keyActor:
		m.Actor = value
	case keyAt:
		m.At, err = time.Parse(time.RFC3339Nano, value)
	case keyTrace:
		m.Trace = value
	case keyCreated:
		m.Created, err = time.Parse(time.RFC3339Nano, value)
	default:
		return false
	}
	return err == nil
}

// cutText takes a string without escapes off the front.
func cutText(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	end := strings.IndexByte(s[1:], '"')
	if end < 0 {
		return "", "", false
	}
	text, rest = s[1:1+end], s[2+end:]
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '\\' {
			return "", "", false
		}
	}
	return text, rest, true
}

func cutDigits(s string) (digits, rest string, ok bool) {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return s[:n], s[n:], n > 0
}
