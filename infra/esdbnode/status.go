package esdbnode

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A refusal is an answer by status, with the trailers that tell the client more.
type refusal struct {
	code     codes.Code
	trailers metadata.MD
	text     string
}

func (r *refusal) Error() string { return r.text }

// GRPCStatus is what gRPC answers a call with that ends in a refusal.
func (r *refusal) GRPCStatus() *status.Status { return status.New(r.code, r.text) }

func refuseDeleted(stream string) error {
	return &refusal{
		codes.FailedPrecondition,
		metadata.Pairs("exception", "stream-deleted", "stream-name", headerSafe(stream)),
		"event stream '" + stream + "' is deleted",
	}
}

func refuseSize(limit int) error {
	return &refusal{
		codes.InvalidArgument,
		metadata.Pairs("exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(limit)),
		"maximum append size of " + strconv.Itoa(limit) + " bytes exceeded",
	}
}

func refuseVersion(stream string, expect expectation, events uint64) error {
	actual := "-1"
	if events > 0 {
		actual = strconv.FormatUint(events-1, 10)
	}
	return &refusal{
		codes.FailedPrecondition,
		metadata.Pairs("exception", "wrong-expected-version", "stream-name", headerSafe(stream),
			"expected-version", expect.version(), "actual-version", actual),
		"append failed due to WrongExpectedVersion: stream '" + stream + "' expected " + expect.version() + ", actual " + actual,
	}
}

func refuseMetadata(what string) error {
	return &refusal{
		codes.InvalidArgument,
		metadata.Pairs("exception", "missing-required-metadata-property", "required-metadata-properties", "type,content-type"),
		"required metadata property '" + what + "' is missing",
	}
}

func refuseRequest(text string) error { return &refusal{codes.InvalidArgument, nil, text} }

func (r *refusal) about(what string) bool { return slices.Contains(r.trailers.Get("exception"), what) }

func ignoreTrailers(metadata.MD) {}

// version is the number EventStoreDB has for an expectation.
func (e expectation) version() string {
	switch e.kind {
	case expectNoStream:
		return "-1"
	case expectAny:
		return "-2"
	case expectExists:
		return "-4"
	case expectNumber:
	}
	return strconv.FormatUint(e.number, 10)
}

// headerSafe escapes what may not stand in a header.
func headerSafe(s string) string {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return url.PathEscape(s)
		}
	}
	return s
}

// asStatus turns an error into the answer to a call.
func asStatus(err error, setTrailer func(metadata.MD)) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		setTrailer(r.trailers)
		return r
	}
	switch {
	case errors.Is(err, errClosing):
		return status.Error(codes.Unavailable, "server is shutting down")
	case errors.Is(err, errBroken), errors.Is(err, errFull), errors.Is(err, errBusy):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, errCorrupt), pebble.IsCorruptionError(err):
		text, _, _ := strings.Cut(err.Error(), "\n") // Pebble's go on with what is meant for its own reports
		return status.Error(codes.DataLoss, text)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errLate):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Internal, err.Error())
}
