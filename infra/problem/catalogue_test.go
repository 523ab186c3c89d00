package problem_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cartwright/infra/problem"
)

var slugForm = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

func TestEverySentenceIsOne(t *testing.T) {
	for slug, sentence := range problem.Catalogue() {
		if !slugForm.MatchString(slug) {
			t.Errorf("%q is no slug", slug)
		}
		if sentence == "" || strings.HasSuffix(sentence, ".") || strings.ToUpper(sentence[:1]) != sentence[:1] {
			t.Errorf("%s: %q is no title", slug, sentence)
		}
		if problem.Title(slug) != sentence {
			t.Errorf("%s: Title says %q", slug, problem.Title(slug))
		}
	}
	if got := problem.Title("made_up_later"); got != "Made up later" {
		t.Errorf("got %q", got)
	}
}

// TestEverySlugIsInTheCatalogue reads the source of all rooms whose refusals
// reach a client. Slugs are API: whoever adds one adds its sentence.
func TestEverySlugIsInTheCatalogue(t *testing.T) {
	known := problem.Catalogue()
	found := 0
	for _, room := range []string{
		"domain", "commands", "writeapi", "readapi", "infra/problem", "infra/httpedge", "infra/token",
		"infra/wechatpay", "infra/alipay", "infra/stripepay", "infra/outward", "infra/sandboxpay",
	} {
		for slug, places := range slugs(t, filepath.Join("..", "..", room)) {
			found++
			if known[slug] == "" {
				t.Errorf("%s is not in the catalogue; it is used at %s", slug, strings.Join(places, ", "))
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d slugs were found: this test looks for the wrong thing", found)
	}
}

// slugArgument says where the functions that make refusals take the slug.
var slugArgument = map[string]int{
	"Refuse": 1, "misnamed": 0, "refuseHeader": 0, "malformed": 0, "misplaced": 0, "require": 1, "document": 0, "refuseParameter": 0, "unless": 1,
}

func slugs(t *testing.T, dir string) map[string][]string {
	t.Helper()
	found, named := map[string][]string{}, map[string]bool{}
	files := inspect(t, dir, func(_ string, n ast.Node) {
		if call, ok := n.(*ast.CallExpr); ok && nameOf(call.Fun) == "Refuse" && of(call.Fun, "domain") {
			named[nameOf(slugOf(n))] = true
		}
	})
	if files == 0 {
		t.Errorf("%s has no source", dir)
	}
	inspect(t, dir, func(path string, n ast.Node) {
		for _, e := range append(valuesOf(n, named), slugOf(n)) {
			if slug, ok := word(e); ok && !slices.Contains(found[slug], path) {
				found[slug] = append(found[slug], path)
			}
		}
	})
	return found
}

// inspect looks at all nodes of the source under a folder.
func inspect(t *testing.T, dir string, look func(path string, n ast.Node)) (files int) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		ast.Inspect(file, func(n ast.Node) bool {
			look(path, n)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// slugOf finds the slug in a call that refuses, or in an error written out.
func slugOf(n ast.Node) ast.Expr {
	switch n := n.(type) {
	case *ast.CallExpr:
		if at, ok := slugArgument[nameOf(n.Fun)]; ok && at < len(n.Args) {
			return n.Args[at]
		}
	case *ast.CompositeLit:
		if name := nameOf(n.Type); name != "Error" && name != "RefusalError" {
			return nil
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok && nameOf(kv.Key) == "Reason" {
				return kv.Value
			}
		}
		if nameOf(n.Type) == "RefusalError" && len(n.Elts) == 3 {
			return n.Elts[1]
		}
	}
	return nil
}

// valuesOf are the values given to names by which slugs are handed on.
func valuesOf(n ast.Node, named map[string]bool) []ast.Expr {
	var values []ast.Expr
	switch n := n.(type) {
	case *ast.AssignStmt:
		for i, to := range n.Lhs {
			if len(n.Lhs) == len(n.Rhs) && nameOf(to) != "" && named[nameOf(to)] {
				values = append(values, n.Rhs[i])
			}
		}
	case *ast.ValueSpec:
		for i, to := range n.Names {
			if i < len(n.Values) && named[to.Name] {
				values = append(values, n.Values[i])
			}
		}
	}
	return values
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// of tells whether a name is a package's.
func of(e ast.Expr, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && nameOf(sel.X) == name
}

func word(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil && slugForm.MatchString(s)
}
