package persistent

import (
	"context"
	"errors"
	"fmt"
	"net/url"

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

func refuse(code codes.Code, exception, stream, group, text string) *refusal {
	return &refusal{code, metadata.Pairs("exception", exception, "stream-name", headerSafe(stream), "group-name", headerSafe(group)), text}
}

func refuseMissing(stream, group string) error {
	return refuse(codes.NotFound, "persistent-subscription-does-not-exist", stream, group,
		fmt.Sprintf("Subscription group %s on stream %s does not exist.", group, stream))
}

func refuseExisting(stream, group string) error {
	return refuse(codes.AlreadyExists, "persistent-subscription-exists", stream, group,
		fmt.Sprintf("Subscription group %s on stream %s exists.", group, stream))
}

func refuseFull(stream, group string) error {
	return refuse(codes.FailedPrecondition, "maximum-subscribers-reached", stream, group,
		fmt.Sprintf("Maximum subscriptions reached for subscription group %s on stream %s.", group, stream))
}

func refuseDropped(stream, group string) error {
	return refuse(codes.Canceled, "persistent-subscription-dropped", stream, group,
		fmt.Sprintf("Subscription group %s on stream %s was dropped.", group, stream))
}

func failed(code codes.Code, stream, group string, reason error) error {
	r := refuse(code, "persistent-subscription-failed", stream, group,
		fmt.Sprintf("Subscription group %s on stream %s failed: '%s'", group, stream, reason))
	r.trailers.Set("reason", headerSafe(reason.Error()))
	return r
}

// refuseSettings is for what was asked wrongly, and will be wrong again.
func refuseSettings(stream, group string, reason error) error {
	return failed(codes.InvalidArgument, stream, group, reason)
}

func refuseRequest(text string) error { return &refusal{codes.InvalidArgument, nil, text} }

// headerSafe escapes what may not stand in a header.
func headerSafe(s string) string {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return url.PathEscape(s)
		}
	}
	return s
}

// asStatus turns an error about a group into the answer to a call.
func asStatus(err error, stream, group string, setTrailer func(metadata.MD)) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errDropped):
		err = refuseDropped(stream, group)
	case errors.Is(err, errFull):
		err = refuseFull(stream, group)
	case errors.Is(err, ErrUnavailable):
		return status.Error(codes.Unavailable, "server is shutting down")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		if s, is := status.FromError(err); is {
			return s.Err()
		}
		r, _ = errors.AsType[*refusal](failed(codes.Internal, stream, group, err))
	}
	setTrailer(r.trailers)
	return status.Error(r.code, r.text)
}
