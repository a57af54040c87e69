// Package hostile has texts as a host may choose them to harm who looks at it:
// names, paths and command lines hold any byte. It also says what makes them
// harmless, in words of its own, so that the tests do not ask what they test.
// Only tests import it, and it imports nothing of the project.
package hostile
