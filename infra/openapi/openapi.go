// Package openapi is the description of both HTTP APIs, an OpenAPI 3.1
// document. It is data: a table of operations and the schemas they speak of.
//
// # Why
//
// Written by hand and compared, not generated from the routes: what a route
// takes and answers is a promise, and a promise that follows the code by itself
// promises nothing. Tests hold both sides together: the routes of both APIs are
// the document's (TestTheDocumentHasEveryRouteAndNoOther), what they answer
// fits its schemas and what they take is what these allow
// (TestWhatTheServerSaysFitsTheDocument, TestWhatIsSaidOfMoneyFitsTheDocument),
// each query takes the document's
// parameters and no others (TestQueriesTakeTheParametersOfTheDocument), and
// every slug it names is in the catalogue (TestEverySlugIsOneThereIs).
package openapi

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

//go:embed schemas.json
var schemas []byte

// object is a JSON object in the making.
type object = map[string]any

// Document writes the description as JSON. The same bytes come out every time.
func Document() ([]byte, error) {
	var components object
	if err := json.Unmarshal(schemas, &components); err != nil {
		return nil, fmt.Errorf("read the schemas: %w", err)
	}
	paths := object{}
	for _, op := range operations() {
		item, ok := paths[op.path].(object)
		if !ok {
			item = object{}
			paths[op.path] = item
		}
		item[op.method] = op.describe()
	}
	text, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Cartwright", "version": "1",
			"description": strings.Join(introduction, "\n\n"),
		},
		"servers":    []object{{"url": "/", "description": "this server"}},
		"paths":      paths,
		"components": object{"schemas": components},
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the document: %w", err)
	}
	return text, nil
}

var introduction = []string{
	"Orders, stock, offers, payments and accounts of a marketplace. Every change is an event; commands and queries are apart.",
	"Amounts are minor units with their currency. Times are RFC 3339 in UTC. Ids are strings, order ids too. Bodies are JSON in UTF-8, at most 1 MiB; a field that is unknown, or stands twice, is refused.",
	"A command answers with its stream's version (`ETag`) and with a `Cartwright-Token`. A query that carries the token shows at least what the command did.",
	"A failure is `application/problem+json` (RFC 9457). Its `type` is `/problems/` and a slug that is never renamed; each operation lists the slugs that are its own. Every operation may also answer 404 `route_unknown`, 405 `method_not_allowed`, 500 `internal` or `history_corrupt`, 429 `rate_limited` where callers are limited, and 503 `overloaded`, `timeout`, `busy`, `log_unavailable` or `shutting_down`.",
}

// An operation is a route as it is promised.
type operation struct {
	method, path, id, tag, summary string
	details                        string
	query                          []string // names in queryParameters, with ! where they are required
	headers                        []string // names in headerParameters, with ! where they are required
	body                           string   // a schema, "" for none
	optional                       bool     // the body
	status                         int      // of success
	answer                         string   // a schema
	media                          string   // of the answer; JSON if ""
	foreign                        bool     // it is spoken to, and answers, in words that are not ours
	etag, token, notModified       bool     // what success may carry
	slugs                          []string // "<status> <slug>…"
}

func (op operation) describe() object {
	d := object{
		"operationId": op.id, "tags": []string{op.tag}, "summary": op.summary,
		"parameters": op.parameters(), "responses": op.responses(),
	}
	if op.details != "" {
		d["description"] = op.details
	}
	if op.body != "" {
		d["requestBody"] = object{"required": !op.optional, "content": content(op.speaks(jsonMedia), op.body)}
	}
	return d
}

const (
	jsonMedia = "application/json"
	anyMedia  = "*/*"
)

// speaks is a media type, unless whoever sends has its own.
func (op operation) speaks(media string) string {
	if op.foreign {
		return anyMedia
	}
	return media
}

func content(media, schema string) object {
	return object{media: object{"schema": object{"$ref": "#/components/schemas/" + schema}}}
}

// parameters are those of the path, by their names, then of the query and the head.
func (op operation) parameters() []object {
	all := []object{}
	for part := range strings.SplitSeq(op.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			all = append(all, object{"name": name, "in": "path", "required": true, "schema": pathParameters[name]})
		}
	}
	for _, known := range op.query {
		name, required := strings.CutSuffix(known, "!")
		p := queryParameters[known]
		all = append(all, object{"name": name, "in": "query", "required": required, "description": p.text, "schema": p.schema})
	}
	for _, header := range op.headers {
		name, required := strings.CutSuffix(header, "!")
		p := headerParameters[name]
		all = append(all, object{"name": name, "in": "header", "required": required, "description": p.text, "schema": p.schema})
	}
	return all
}

func (op operation) responses() object {
	success := object{"description": "Done."}
	if op.answer != "" {
		success["content"] = content(op.speaks(cmp.Or(op.media, jsonMedia)), op.answer)
	}
	if headers := op.answerHeaders(); len(headers) > 0 {
		success["headers"] = headers
	}
	all := object{strconv.Itoa(op.status): success}
	if op.id == "publishOffer" {
		all["200"] = object{"description": "Changed, or as it was.", "content": success["content"], "headers": success["headers"]}
	}
	if op.notModified {
		all["304"] = object{"description": "The reader has this version."}
	}
	if op.foreign {
		all["400"] = object{"description": "It is not to be believed.", "content": success["content"]}
		all["500"] = object{"description": "It is not on record: send it again.", "content": success["content"]}
	}
	for _, line := range op.slugs {
		status, slugs, _ := strings.Cut(line, " ")
		all[status] = failure(strings.Fields(slugs))
	}
	if _, ok := all["503"]; !ok {
		all["503"] = failure(nil)
	}
	return all
}

// failure describes a problem and names its slugs, for people and for tools.
func failure(slugs []string) object {
	text := "Not now; see Retry-After."
	if len(slugs) > 0 {
		text = "`" + strings.Join(slugs, "`, `") + "`"
	}
	slices.Sort(slugs)
	return object{"description": text, "content": content("application/problem+json", "Problem"), "x-slugs": slugs}
}

func (op operation) answerHeaders() object {
	headers := object{}
	add := func(is bool, name, text string) {
		if is {
			headers[name] = object{"description": text, "schema": object{"type": "string"}}
		}
	}
	add(op.etag, "ETag", `The version: "v17".`)
	add(op.token, "Cartwright-Token", "What a reader must have seen to see this.")
	add(slices.ContainsFunc(op.headers, func(h string) bool { return strings.HasPrefix(h, "Idempotency-Key") }),
		"Idempotent-Replayed", "true, where the command had been carried out before.")
	add(op.media != "", "Content-Disposition", "The file's name.")
	add(op.status == 201 && op.token, "Location", "Where to read what was created, if that has a place of its own.")
	return headers
}

// Slugs lists the slugs that operations name.
func Slugs() []string {
	all := map[string]bool{}
	for _, op := range operations() {
		for _, line := range op.slugs {
			for _, slug := range strings.Fields(line)[1:] {
				all[slug] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}
