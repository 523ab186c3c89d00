package openapi_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

type object = map[string]any

// A document is the description as a reader of it sees it.
type document object

// at follows names into the document; nil where there is nothing.
func (d document) at(names ...string) object { return at(object(d), names...) }

func at(o object, names ...string) object {
	for _, name := range names {
		o, _ = o[name].(object)
	}
	return o
}

// misfits lists where a value is not what a schema says. It knows the keywords
// that the document uses; one that it does not know is a misfit too, so that
// nothing is taken for checked that is not.
func (d document) misfits(schema object, v any, where string) (found []string) {
	wrong := func(is bool, format string, args ...any) {
		if is {
			found = append(found, where+": "+fmt.Sprintf(format, args...))
		}
	}
	for keyword, want := range schema {
		switch keyword {
		case "description", "default":
		case "$ref":
			name, _ := strings.CutPrefix(fmt.Sprint(want), "#/components/schemas/")
			target := d.at("components", "schemas", name)
			wrong(target == nil, "there is no schema %s", name)
			found = append(found, d.misfits(target, v, where)...)
		case "anyOf":
			wrong(!d.fitsAny(want, v), "%v is none of what it may be", v)
		case "type":
			wrong(!isA(fmt.Sprint(want), v), "%v is no %s", v, want)
		case "enum":
			options, _ := want.([]any)
			wrong(!slices.Contains(options, v), "%v is none of %v", v, options)
		case "format":
			wrong(!formed(fmt.Sprint(want), v), "%v is no %s", v, want)
		case "pattern", "minLength", "maxLength":
			s, ok := v.(string)
			wrong(ok && !measured(keyword, want, s), "%q breaks %s %v", s, keyword, want)
		case "minimum", "maximum":
			n, ok := v.(float64)
			limit, _ := want.(float64)
			wrong(ok && (keyword == "minimum" && n < limit || keyword == "maximum" && n > limit), "%v breaks %s %v", n, keyword, limit)
		case "items", "minItems", "maxItems":
			found = append(found, d.listMisfits(keyword, want, v, where)...)
		case "properties", "required", "additionalProperties", "maxProperties":
			found = append(found, d.memberMisfits(schema, keyword, v, where)...)
		default:
			wrong(true, "the keyword %s is not known here", keyword)
		}
	}
	return found
}

func (d document) fitsAny(options, v any) bool {
	list, _ := options.([]any)
	return slices.ContainsFunc(list, func(option any) bool {
		schema, _ := option.(object)
		return len(d.misfits(schema, v, "")) == 0
	})
}

func isA(kind string, v any) bool {
	switch v := v.(type) {
	case nil:
		return kind == "null"
	case bool:
		return kind == "boolean"
	case string:
		return kind == "string"
	case float64:
		return kind == "number" || kind == "integer" && v == float64(int64(v))
	case []any:
		return kind == "array"
	case object:
		return kind == "object"
	}
	return false
}

func formed(format string, v any) bool {
	if format == "int64" {
		return true // isA has looked
	}
	s, _ := v.(string)
	_, err := time.Parse(time.RFC3339, s)
	return format == "date-time" && err == nil && strings.HasSuffix(s, "Z")
}

func measured(keyword string, want any, s string) bool {
	limit, _ := want.(float64)
	switch keyword {
	case "pattern":
		return regexp.MustCompile(fmt.Sprint(want)).MatchString(s)
	case "minLength":
		return utf8.RuneCountInString(s) >= int(limit)
	default:
		return utf8.RuneCountInString(s) <= int(limit)
	}
}

func (d document) listMisfits(keyword string, want, v any, where string) (found []string) {
	list, ok := v.([]any)
	limit, _ := want.(float64)
	switch {
	case !ok:
	case keyword == "minItems" && len(list) < int(limit), keyword == "maxItems" && len(list) > int(limit):
		found = append(found, fmt.Sprintf("%s: %d items break %s %v", where, len(list), keyword, limit))
	case keyword == "items":
		schema, _ := want.(object)
		for i, item := range list {
			found = append(found, d.misfits(schema, item, fmt.Sprintf("%s/%d", where, i))...)
		}
	}
	return found
}

func (d document) memberMisfits(schema object, keyword string, v any, where string) (found []string) {
	members, ok := v.(object)
	if !ok {
		return nil
	}
	known := at(schema, "properties")
	switch want := schema[keyword].(type) {
	case float64: // maxProperties
		if len(members) > int(want) {
			found = append(found, where+": too many members")
		}
	case []any: // required
		for _, name := range want {
			if _, there := members[fmt.Sprint(name)]; !there {
				found = append(found, fmt.Sprintf("%s: %v is missing", where, name))
			}
		}
	case bool: // additionalProperties
		for name := range members {
			if known[name] == nil && !want {
				found = append(found, where+": nobody knows "+name)
			}
		}
	case object: // properties, additionalProperties
		for name, member := range members {
			of := want
			if keyword == "properties" {
				of, _ = want[name].(object)
			} else if known[name] != nil {
				of = nil
			}
			found = append(found, d.misfits(of, member, where+"/"+name)...)
		}
	}
	return found
}
