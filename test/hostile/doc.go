// Package hostile has texts that an attacker on a host may choose to harm readers:
// names, paths and command lines can hold any byte. It also checks whether an escaped
// text is harmless, independently of the code under test. Only tests import it, and it
// imports nothing of the project.
package hostile
