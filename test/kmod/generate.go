package kmod

//go:generate ./compile.sh firmware nested hidden untaint
