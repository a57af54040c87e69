package shell

import "strings"

// splitter cuts a stream of lines into SQL statements at each semicolon outside quotes
// and comments. The zero splitter is ready for use.
type splitter struct {
	text    strings.Builder
	meaning bool // the text since the last cut has more than space and comments
	// inside is the quote or comment that is open at the end of the text: 0 for none,
	// the closing quote, '-' for a line comment and '*' for a block comment.
	inside byte
}

// feed adds one line, without its end, and returns the statements that it completes,
// without their semicolons. It omits statements that consist of comments.
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
			// The second quote of a doubled one opens the string again.
			if c == s.inside {
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
				s.inside = c
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

// open reports whether a statement or comment has begun and not ended.
func (s *splitter) open() bool { return s.meaning || s.inside != 0 }

// cut returns the text since the last cut. ok is false if it is not a statement.
func (s *splitter) cut() (statement string, ok bool) {
	statement, ok = strings.TrimSpace(s.text.String()), s.meaning
	*s = splitter{}
	return statement, ok
}
