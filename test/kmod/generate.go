package kmod

//go:generate ./compile.sh firmware helper nested hidden unformed untaint
