(call target: (identifier) @_keyword (arguments . (alias) @name) (do_block) @body
  (#eq? @_keyword "defmodule")) @definition.module
(call target: (identifier) @_keyword (arguments . (alias) @name) (do_block) @body
  (#eq? @_keyword "defprotocol")) @definition.interface
(call target: (identifier) @_keyword (arguments . (alias) @name) (do_block) @body
  (#eq? @_keyword "defimpl")) @scope
(call target: (identifier) @_keyword
  (arguments . [
    (identifier) @name
    (call target: (identifier) @name)
    (binary_operator left: [(identifier) @name (call target: (identifier) @name)] operator: "when")])
  (do_block)? @body
  (#any-of? @_keyword "def" "defp" "defdelegate" "defn" "defnp")) @definition.function
(call target: (identifier) @_keyword
  (arguments . [
    (identifier) @name
    (call target: (identifier) @name)
    (binary_operator left: [(identifier) @name (call target: (identifier) @name)] operator: "when")])
  (do_block)? @body
  (#any-of? @_keyword "defmacro" "defmacrop" "defguard" "defguardp")) @definition.macro
(unary_operator operator: "@" operand: (call target: (identifier) @_keyword
  (arguments . (binary_operator left: [(identifier) @name (call target: (identifier) @name)] operator: "::")))
  (#any-of? @_keyword "type" "typep" "opaque")) @definition.type
(unary_operator operator: "@" operand: (call target: (identifier) @_keyword
  (arguments . (binary_operator left: (call target: (identifier) @name) operator: "::")))
  (#any-of? @_keyword "callback" "macrocallback")) @definition.method
(unary_operator operator: "@" operand: (call target: (identifier) @name (arguments . (_) .))
  (#not-match? @name "^(doc|moduledoc|typedoc|spec|type|typep|opaque|callback|macrocallback|impl|behaviour|derive|deprecated|since|enforce_keys|compile|dialyzer|optional_callbacks|external_resource|on_load|before_compile|after_compile|tag|moduletag|describetag|shortdoc)$"))
  @definition.constant

; Uses
(anonymous_function) @local
(comment) @comment
(unary_operator operator: "@" operand: (call target: (identifier) @_attribute_name
  (arguments [(string) (sigil)] @doc)) (#any-of? @_attribute_name "doc" "typedoc"))
(unary_operator operator: "@" operand: (call target: (identifier) @_attribute_name)
  (#any-of? @_attribute_name "spec" "impl" "deprecated" "since")) @attribute

(call target: (identifier) @_import_keyword (arguments . (alias) @import)
  (#any-of? @_import_keyword "alias" "import" "require" "use"))
(call target: (identifier) @_import_keyword
  (arguments . (dot left: (alias) @import right: (tuple (alias) @import)))
  (#any-of? @_import_keyword "alias" "import" "require" "use"))

(identifier) @reference
(alias) @reference
