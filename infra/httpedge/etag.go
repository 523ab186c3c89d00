package httpedge

import (
	"net/http"
	"strconv"
	"strings"

	"cartwright/domain"
)

// ETag is the strong entity tag of a version: "v17".
func ETag[V ~uint64 | ~int](version V) string {
	return `"v` + strconv.FormatUint(uint64(version), 10) + `"`
}

// SumTag is the tag of what one stream says together with others: the version of
// the one, which a change can be based on, and a number that tells what else there
// is to see apart: "v17.204". There must be something else, or it is an ETag.
func SumTag[V ~uint64 | ~int](version, others V) string {
	return `"v` + strconv.FormatUint(uint64(version), 10) + "." + strconv.FormatUint(uint64(others), 10) + `"`
}

// A Match is what an If-Match header asks for.
type Match struct {
	Sent    bool
	Any     bool   // *
	Version uint64 // where neither Any nor unsent
}

// IfMatch reads the header. One strong tag of ours or * can be met; anything
// else is refused, since to ignore it would be to overwrite what the caller
// wanted to keep.
func IfMatch(h http.Header) (Match, error) {
	values := h.Values("If-Match")
	if len(values) == 0 {
		return Match{}, nil
	}
	if len(values) == 1 && values[0] == "*" {
		return Match{Sent: true, Any: true}, nil
	}
	if len(values) == 1 {
		if v, ok := version(values[0]); ok {
			return Match{Sent: true, Version: v}, nil
		}
	}
	return Match{}, malformed("if_match_malformed", "If-Match", `If-Match is one strong entity tag as it was given ("v17"), or *.`)
}

// IfNoneMatchAny reads an If-None-Match on a change, where only * makes sense:
// do it if there is nothing yet.
func IfNoneMatchAny(h http.Header) (bool, error) {
	values := h.Values("If-None-Match")
	if len(values) == 0 {
		return false, nil
	}
	if len(values) == 1 && values[0] == "*" {
		return true, nil
	}
	return false, malformed("if_none_match_malformed", "If-None-Match", "On a change If-None-Match can only be *.")
}

// NotModified says whether a reader who sent these If-None-Match headers has
// what tag names. The comparison is the weak one, as RFC 9110 wants it.
func NotModified(h http.Header, tag string) bool {
	for _, value := range h.Values("If-None-Match") {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.TrimSpace(one); one == "*" || strings.TrimPrefix(one, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// version reads "v17", and the 17 of "v17.204", without leading zeros: one version
// has one tag.
func version(tag string) (uint64, bool) {
	if len(tag) < 4 || !strings.HasPrefix(tag, `"v`) || !strings.HasSuffix(tag, `"`) {
		return 0, false
	}
	own, rest, summed := strings.Cut(tag[2:len(tag)-1], ".")
	v, err := strconv.ParseUint(own, 10, 63)
	if !summed {
		return v, err == nil && ETag(v) == tag
	}
	others, also := strconv.ParseUint(rest, 10, 63)
	return v, err == nil && also == nil && SumTag(v, others) == tag
}

func malformed(slug, header, detail string) error {
	return &domain.Error{
		Code: domain.Invalid, Reason: slug, Detail: detail, Fields: []domain.Field{{Pointer: "header:" + header, Detail: detail}},
	}
}
