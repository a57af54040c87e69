package rules

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/kmodquery/kmodquery"
	"github.com/kmodquery/kmodquery/internal/human"
)

const (
	// maxCondition bounds the text of a condition in bytes, and maxNodes its operands and
	// operators.
	maxCondition = 8 << 10
	maxNodes     = 1000
	// maxCost bounds an evaluation: a byte of text that it reads costs 1, and in a regular
	// expression as much as the expression has instructions.
	maxCost = 4 << 20
)

var (
	errAbsent = errors.New("a column is NULL")
	errCost   = errors.New("the evaluation costs too much")
)

// A condition is a compiled condition of a rule. It has no loops, so an evaluation visits
// each node once.
type condition struct {
	program *vm.Program
	columns []column // that it reads
}

// operators are the binary operators of a condition.
var operators = []string{
	"==", "!=", "<", ">", "<=", ">=", "and", "&&", "or", "||", "in", "contains", "startsWith", "endsWith", "matches", "-", "*", "/", "%",
}

// functions are the functions of a condition, without has.
var functions = []string{"len", "lower", "upper", "trim", "trimPrefix", "trimSuffix", "indexOf", "lastIndexOf", "bitand", "bitor", "bitxor", "bitnot", "bitshl", "bitshr", "abs", "int", "string"}

// Names that a condition cannot have.
const (
	rowName    = "#row"
	textName   = "#text"
	numberName = "#number"
	hasName    = "#has"
	matchName  = "#matches"
)

// A positionError is an error at a line of a condition; the first is 1.
type positionError struct {
	line int
	text string
}

func (e *positionError) Error() string { return e.text }

// compile checks and compiles a condition.
func compile(text string, columns []column) (*condition, error) {
	if len(text) > maxCondition {
		return nil, fmt.Errorf("the condition has more than %d bytes", maxCondition)
	}
	tree, err := parser.Parse(text)
	if err != nil {
		return nil, positioned(text, err)
	}
	c := &checker{source: text, columns: columns}
	c.check(tree.Node)
	if c.err != nil {
		return nil, c.err
	}
	options := []expr.Option{
		expr.Env(map[string]any{rowName: &row{}}), expr.AsBool(), expr.MaxNodes(10 * maxNodes), expr.Patch(c),
		expr.Function(textName, func(p ...any) (any, error) { return p[0].(*row).text(columns[p[1].(int)]) }, new(func(*row, int) string)),
		expr.Function(numberName, func(p ...any) (any, error) { return p[0].(*row).number(columns[p[1].(int)]) }, new(func(*row, int) int)),
		expr.Function(hasName, func(p ...any) (any, error) { return columns[p[1].(int)].has(p[0].(*row)), nil }, new(func(*row, int) bool)),
		expr.Function(matchName, func(p ...any) (any, error) {
			return p[0].(*row).matches(c.patterns[p[1].(int)], p[2].(string))
		}, new(func(*row, int, string) bool)),
		expr.DisableAllBuiltins(),
	}
	for _, name := range functions {
		options = append(options, expr.EnableBuiltin(name))
	}
	program, err := expr.Compile(text, options...)
	if err != nil {
		return nil, positioned(text, err)
	}
	return &condition{program, c.used}, nil
}

// positioned returns an error of the library as one line.
func positioned(source string, err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return err
	}
	message, _, _ := strings.Cut(at.Message, "\n")
	if at.Line == 0 {
		at = at.Bind(file.NewSource(source))
	}
	return &positionError{max(at.Line, 1), message}
}

// evaluate reports whether the event meets the condition. The error matches errAbsent if the
// condition needed a column that is NULL.
func (c *condition) evaluate(e *kmodquery.Event) (bool, error) {
	got, err := expr.Run(c.program, map[string]any{rowName: &row{event: e, left: maxCost}})
	if err != nil {
		var at *file.Error
		if errors.As(err, &at) && at.Prev == nil {
			err = errors.New(at.Message) // in one line
		}
		return false, err
	}
	return got.(bool), nil
}

// A checker checks that a condition has only what is bounded and known, and lets it read
// columns through functions that fail on NULL.
type checker struct {
	source   string
	columns  []column
	nodes    int
	used     []column
	patterns []pattern
	err      error
}

type pattern struct {
	*regexp.Regexp
	cost int // of a byte of text
}

func (c *checker) fail(node ast.Node, format string, args ...any) {
	if c.err == nil {
		at := &file.Error{Location: node.Location(), Message: fmt.Sprintf(format, args...)}
		c.err = positioned(c.source, at.Bind(file.NewSource(c.source)))
	}
}

// check checks a node as it was parsed.
func (c *checker) check(node ast.Node) {
	if c.nodes++; c.nodes > maxNodes {
		c.fail(node, "the condition has more than %d operands and operators", maxNodes)
		return
	}
	switch n := node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode:
	case *ast.IdentifierNode:
		if c.find(n.Value) < 0 {
			c.fail(n, "there is no column %q%s", n.Value, c.nearest(n.Value))
		}
	case *ast.UnaryNode:
		c.check(n.Node)
	case *ast.BinaryNode:
		if !slices.Contains(operators, n.Operator) {
			c.fail(n, "a condition has no operator %s", n.Operator)
		}
		c.check(n.Left)
		c.check(n.Right)
		if n.Operator == "matches" {
			c.checkPattern(n)
		}
	case *ast.ArrayNode:
		for _, item := range n.Nodes {
			c.check(item)
		}
	case *ast.ConditionalNode:
		c.check(n.Cond)
		c.check(n.Exp1)
		c.check(n.Exp2)
	case *ast.BuiltinNode:
		if !slices.Contains(functions, n.Name) {
			c.fail(n, "a condition has no function %s; it has has, %s", n.Name, strings.Join(functions, ", "))
		}
		for _, argument := range n.Arguments {
			c.check(argument)
		}
	case *ast.CallNode:
		c.checkCall(n)
	case *ast.NilNode:
		c.fail(n, "a condition has no nil; write has(COLUMN), or not has(COLUMN)")
	default:
		c.fail(n, "a condition has only columns, texts, numbers, lists, operators and functions")
	}
}

func (c *checker) checkCall(n *ast.CallNode) {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	switch {
	case !ok:
		c.fail(n, "a condition has no methods")
	case callee.Value != "has" && slices.Contains(functions, callee.Value):
		for _, argument := range n.Arguments {
			c.check(argument)
		}
	case callee.Value != "has":
		c.fail(n, "a condition has no function %s; it has has, %s", callee.Value, strings.Join(functions, ", "))
	case len(n.Arguments) != 1:
		c.fail(n, "has takes one column")
	default:
		if _, ok := n.Arguments[0].(*ast.IdentifierNode); !ok {
			c.fail(n, "has takes one column")
		}
		c.check(n.Arguments[0])
	}
}

func (c *checker) checkPattern(n *ast.BinaryNode) {
	text, ok := n.Right.(*ast.StringNode)
	if !ok {
		c.fail(n, "matches takes a regular expression in quotes")
		return
	}
	parsed, err := syntax.Parse(text.Value, syntax.Perl)
	if err != nil {
		c.fail(n, "%v", err)
		return
	}
	if program, err := syntax.Compile(parsed.Simplify()); err != nil {
		c.fail(n, "%v", err)
	} else if cost := len(program.Inst); cost > maxNodes {
		c.fail(n, "a regular expression is too large: it has more than %d instructions", maxNodes)
	}
}

func (c *checker) find(name string) int {
	return slices.IndexFunc(c.columns, func(of column) bool { return of.name == name })
}

func (c *checker) nearest(name string) string {
	var names []string
	for _, of := range c.columns {
		names = append(names, of.name)
	}
	if best := human.Nearest(name, names); best != "" {
		return "; the nearest is " + best
	}
	return ""
}

// Visit replaces columns, has and matches with calls. It sees the operands of a node first.
func (c *checker) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		at := c.find(n.Value)
		if at < 0 {
			return
		}
		if !slices.ContainsFunc(c.used, func(of column) bool { return of.name == n.Value }) {
			c.used = append(c.used, c.columns[at])
		}
		name, kind := textName, reflect.TypeFor[string]()
		if c.columns[at].isNumber {
			name, kind = numberName, reflect.TypeFor[int]()
		}
		c.patch(node, kind, name, &ast.IntegerNode{Value: at})
	case *ast.CallNode:
		callee, ok := n.Callee.(*ast.IdentifierNode)
		if ok && callee.Value == "has" {
			of := n.Arguments[0].(*ast.CallNode) // the column, which was replaced before
			c.patch(node, reflect.TypeFor[bool](), hasName, of.Arguments[1])
		}
	case *ast.BinaryNode:
		if n.Operator == "matches" {
			text := n.Right.(*ast.StringNode).Value
			parsed, _ := syntax.Parse(text, syntax.Perl) // checkPattern has seen it
			program, _ := syntax.Compile(parsed.Simplify())
			c.patterns = append(c.patterns, pattern{regexp.MustCompile(text), len(program.Inst)})
			c.patch(node, reflect.TypeFor[bool](), matchName, &ast.IntegerNode{Value: len(c.patterns) - 1}, n.Left)
		}
	}
}

// patch replaces a node with a call of a function with the row and further arguments.
func (c *checker) patch(node *ast.Node, kind reflect.Type, function string, arguments ...ast.Node) {
	call := &ast.CallNode{
		Callee:    &ast.IdentifierNode{Value: function},
		Arguments: append([]ast.Node{&ast.IdentifierNode{Value: rowName}}, arguments...),
	}
	ast.Patch(node, call)
	call.SetType(kind)
}

// A row is a load that is evaluated.
type row struct {
	event   *kmodquery.Event
	closing *kmodquery.Closing // nil until a column of it is read
	left    int                // of maxCost
}

// pay pays for reading so many bytes.
func (r *row) pay(bytes int) error {
	if r.left -= bytes; r.left < 0 {
		return errCost
	}
	return nil
}

func (r *row) text(c column) (string, error) {
	text := c.text(r)
	if text == "" && !c.has(r) {
		return "", fmt.Errorf("%w: %s", errAbsent, c.name)
	}
	return text, r.pay(1 + len(text))
}

func (r *row) number(c column) (int, error) {
	n, ok := c.number(r)
	if !ok {
		return 0, fmt.Errorf("%w: %s", errAbsent, c.name)
	}
	return int(n), r.pay(1)
}

func (r *row) matches(p pattern, text string) (bool, error) {
	if err := r.pay(p.cost * (1 + len(text))); err != nil {
		return false, err
	}
	return p.MatchString(text), nil
}

func (r *row) close() *kmodquery.Closing {
	if r.closing == nil {
		r.closing = new(r.event.Closing())
	}
	return r.closing
}

// A column is a column of kernel_module_loads that a condition can read.
type column struct {
	name     string
	isNumber bool
	needs    []string // columns of the event
	has      func(*row) bool
	text     func(*row) string
	number   func(*row) (int64, bool)
}

// columnsOf returns the columns of these names, without those that no load has.
func columnsOf(names []string) []column {
	var columns []column
	for _, name := range names {
		if of, ok := columnOf(name); ok {
			columns = append(columns, of)
		}
	}
	return columns
}

func columnOf(name string) (column, bool) {
	if of, ok := kmodquery.EventColumn(name); ok {
		c := column{name: name, isNumber: of.Number, needs: []string{name}}
		c.has = func(r *row) bool { return of.Value(r.event) != nil }
		c.number = func(r *row) (int64, bool) { return of.Int(r.event) }
		c.text = func(r *row) string {
			text, _ := of.Text(r.event)
			return kmodquery.ShownText(name, text)
		}
		return c, true
	}
	closing := func(text func(*kmodquery.Closing) string) column {
		c := column{name: name, needs: []string{"raw"}}
		c.text = func(r *row) string { return kmodquery.Printable(text(r.close())) }
		c.has = func(r *row) bool { return text(r.close()) != "" }
		return c
	}
	switch name {
	case "outcome":
		return closing(func(c *kmodquery.Closing) string { return c.Outcome }), true
	case "sources":
		return closing(func(c *kmodquery.Closing) string { return c.Sources }), true
	case "user_name":
		return closing(func(c *kmodquery.Closing) string { return c.User }), true
	case "event_eid":
		return column{name: name, isNumber: true, needs: []string{"raw"}, has: func(r *row) bool { return r.close().Event != 0 },
			number: func(r *row) (int64, bool) { return r.close().Event, r.close().Event != 0 }}, true
	case "utc":
		return column{name: name, needs: []string{"time"}, has: func(*row) bool { return true },
			text: func(r *row) string { return time.Unix(r.event.Time, 0).UTC().Format(time.DateTime) }}, true
	case kmodquery.UnprivilegedColumn:
		return column{name: name, isNumber: true, needs: kmodquery.UnprivilegedNeeds(), has: func(*row) bool { return true },
			number: func(r *row) (int64, bool) {
				if r.event.IsUnprivileged() {
					return 1, true
				}
				return 0, true
			}}, true
	case "taint_flags":
		c := column{name: name, needs: []string{"taints"}}
		c.text = func(r *row) string { return kmodquery.TaintFlags(r.event.Taints) }
		c.has = func(r *row) bool { return c.text(r) != "" }
		return c, true
	}
	return column{}, false
}
