package kmod

//go:generate ./compile.sh firmware nested hidden unformed untaint
//go:generate env ARCHS=amd64 ./compile.sh filter
