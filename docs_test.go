package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// parsed is a package's parsed files, tests apart.
type parsed struct {
	path        string // within the module; "." is the root
	code, tests []*ast.File
}

func parsePackages(t *testing.T) (*token.FileSet, []parsed) {
	t.Helper()
	files := token.NewFileSet()
	var all []parsed
	for _, p := range listPackages(t) {
		s := parsed{path: p.within()}
		names, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			f, err := parser.ParseFile(files, name, nil, parser.ParseComments|parser.SkipObjectResolution)
			switch {
			case err != nil:
				t.Error(err)
			case strings.HasSuffix(name, "_test.go"):
				s.tests = append(s.tests, f)
			default:
				s.code = append(s.code, f)
			}
		}
		all = append(all, s)
	}
	return files, all
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	_, all := parsePackages(t)
	for _, s := range all {
		docs := 0
		for _, f := range s.code {
			if f.Doc != nil {
				docs++
			}
		}
		if docs != 1 && len(s.code) > 0 {
			t.Errorf("package %q has %d package comments, want one", s.path, docs)
		}
	}
}

func TestEveryExportedNameIsExplained(t *testing.T) {
	files, all := parsePackages(t)
	for _, s := range all {
		for _, f := range s.code {
			for _, decl := range f.Decls {
				for _, name := range undocumented(decl) {
					t.Errorf("%s: %s has no comment", files.Position(name.Pos()), name.Name)
				}
			}
		}
	}
}

// selfEvident are methods whose interface says all there is to say.
var selfEvident = []string{
	"Error", "Unwrap", "Is", "String", "Len", "Less", "Swap", "Read", "Write", "Close", "ServeHTTP",
	"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText",
}

func undocumented(decl ast.Decl) []*ast.Ident {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && needsDoc(d) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		if d.Tok != token.IMPORT {
			return undocumentedSpecs(d)
		}
	}
	return nil
}

func undocumentedSpecs(d *ast.GenDecl) (bare []*ast.Ident) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			// A comment above a group of types says nothing of each.
			if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				bare = append(bare, s.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
					bare = append(bare, name)
				}
			}
		}
	}
	return bare
}

func needsDoc(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	switch generic := of.(type) {
	case *ast.IndexExpr:
		of = generic.X
	case *ast.IndexListExpr:
		of = generic.X
	}
	receiver, ok := of.(*ast.Ident)
	return ok && receiver.IsExported() && !slices.Contains(selfEvident, d.Name.Name)
}

var namedTest = regexp.MustCompile(`\bTest[A-Z]\w*\b`)

// Package docs name the test that proves a claim; a claim whose test is gone is
// worse than none.
func TestEveryTestThatACommentNamesIsThere(t *testing.T) {
	files, all := parsePackages(t)
	tests := map[string]bool{}
	for _, s := range all {
		for _, f := range slices.Concat(s.code, s.tests) {
			for _, decl := range f.Decls {
				if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil {
					tests[d.Name.Name] = true
				}
			}
		}
	}
	for _, s := range all {
		for _, f := range slices.Concat(s.code, s.tests) {
			for _, comment := range f.Comments {
				for _, name := range namedTest.FindAllString(comment.Text(), -1) {
					if !tests[name] {
						t.Errorf("%s: there is no %s", files.Position(comment.Pos()), name)
					}
				}
			}
		}
	}
}

var docLink = regexp.MustCompile(`\]\(([^)#]+)`)

func TestTheDocumentsAreThereAndTheirLinksLeadSomewhere(t *testing.T) {
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("a document is missing: %v", err)
			continue
		}
		for _, found := range docLink.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			if _, err := os.Stat(found[1]); err != nil {
				t.Errorf("%s links to %s: %v", name, found[1], err)
			}
		}
	}
}
