// Package standin has stand-ins for programs of macOS, for tests on other systems. Each
// behaves like the real program, as far as that is known, and follows a play. A test
// binary acts as a stand-in when it is started under the program's name.
//
// It imports no package of the project.
package standin
