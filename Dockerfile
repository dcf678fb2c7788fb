# The operator's image: the controller, and the step `prepare` of every build.
#
#   make image IMAGE=registry.example.com/groundswell:v0.1.0
#
# Builds for the platform that it runs on, or for several at once with an engine that emulates the
# others or has nodes of each (docker buildx build --platform linux/amd64,linux/arm64).

# The version of rust-toolchain.toml; a test compares them.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-bookworm
# The C library and libgcc, certificate authorities, the user 65532; no shell and no package
# manager.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# The toolchain of the image is the one that rust-toolchain.toml asks for: without this, rustup
# would download the components for development that the file names as well.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
# Shown by --version, in the log at start and in groundswell_build_info.
ARG GROUNDSWELL_COMMIT=unknown
# A profile of Cargo.toml. `cluster` compiles in a third of the time, to a slower program.
ARG PROFILE=release
# The allocator fixes the page size when it is compiled; arm64 kernels have pages of up to 64 KiB.
RUN if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi && \
    cargo build --locked --profile "${PROFILE}" --bin groundswell && \
    install -D "target/${PROFILE}/groundswell" /out/groundswell

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/groundswell /usr/local/bin/groundswell
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/groundswell"]
