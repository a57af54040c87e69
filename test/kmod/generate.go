package kmod

//go:generate ./compile.sh firmware helper nested hidden unformed untaint
//go:generate env ARCHS=amd64 ./compile.sh filter patch
