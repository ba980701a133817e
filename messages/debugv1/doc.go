// Package debugv1 is the debug service's messages and stubs, generated from
// the two .proto files. Regenerating needs protoc (Debian: protobuf-compiler, libprotobuf-dev)
// and fetches the two plug-ins at the versions named below.
package debugv1

//go:generate sh -c "go build -o .bin/ google.golang.org/protobuf/cmd/protoc-gen-go && GOBIN=$PWD/.bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 && PATH=$PWD/.bin:$PATH protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative introspection.proto images.proto; rc=$?; rm -rf .bin; exit $rc"
