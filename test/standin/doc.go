// Package standin has programs that stand in for those of macOS, where there is
// no Mac: each behaves as the real one is known to, and otherwise as a play
// tells it. A test binary becomes one of them when it is started under its name.
//
// It imports no package of the project.
package standin
