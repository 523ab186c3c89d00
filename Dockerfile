# One image for every part: `docker run cartwright serve` needs nothing else.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
# There is no C in it, and so nothing that a libc is needed for.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags='-s -w' -o /out/cartwright . \
    && mkdir -m 0700 /out/data

# Certificates of the public authorities, and no shell.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/cartwright /cartwright
COPY --from=build --chown=65532:65532 /out/data /data
ENV CARTWRIGHT_DATA=/data
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/cartwright"]
