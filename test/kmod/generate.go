package kmod

//go:generate ./compile.sh firmware nested hidden unformed untaint
