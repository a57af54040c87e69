package shell

import "strings"

// splitter cuts a stream of lines into SQL statements at each semicolon that
// stands outside quotes and comments. The zero splitter is ready for use.
type splitter struct {
	text    strings.Builder
	meaning bool // something besides space and comments came since the last cut
	inside  inside
}

// inside is the quote or comment that the end of the text lies in: 0 for none,
// the closing quote, '-' for a line's comment and '*' for a block's.
type inside byte

// feed takes one line, without its end, and returns the statements that it
// completes, without their semicolons. Statements of nothing but comments are
// left out.
func (s *splitter) feed(line string) []string {
	var statements []string
	line += "\n"
	for i := 0; i < len(line); i++ {
		c := line[i]
		pair := line[i:min(i+2, len(line))]
		switch {
		case s.inside == '-':
			if c == '\n' {
				s.inside = 0
			}
		case s.inside == '*':
			if pair == "*/" {
				s.inside = 0
				s.text.WriteByte(c)
				i++
				c = '/'
			}
		case s.inside != 0:
			// A doubled quote leaves the string and enters it again.
			if c == byte(s.inside) {
				s.inside = 0
			}
		case pair == "--":
			s.inside = '-'
		case pair == "/*":
			s.inside = '*'
			s.text.WriteByte(c)
			i++
			c = '*'
		case c == ';':
			if statement, ok := s.cut(); ok {
				statements = append(statements, statement)
			}
			continue
		default:
			switch c {
			case '\'', '"', '`':
				s.inside = inside(c)
			case '[':
				s.inside = ']'
			}
			s.meaning = s.meaning || !strings.ContainsRune(" \t\r\n\f", rune(c))
		}
		s.text.WriteByte(c)
	}
	if !s.open() {
		s.text.Reset()
	}
	return statements
}

// open tells whether a statement or comment has begun and not ended.
func (s *splitter) open() bool { return s.meaning || s.inside != 0 }

// cut ends the text here and returns it, if it is a statement.
func (s *splitter) cut() (statement string, ok bool) {
	statement, ok = strings.TrimSpace(s.text.String()), s.meaning
	*s = splitter{}
	return statement, ok
}
