(element (start_tag (tag_name) @_tag) . (text) @name (#match? @_tag "^[hH][1-6]$")) @definition.module
(element (start_tag (attribute (attribute_name) @_attribute_name
  (quoted_attribute_value (attribute_value) @name))) (#eq? @_attribute_name "id")) @definition.field
(element (self_closing_tag (attribute (attribute_name) @_attribute_name
  (quoted_attribute_value (attribute_value) @name))) (#eq? @_attribute_name "id")) @definition.field

; Uses
(comment) @comment

(attribute (attribute_name) @_source (quoted_attribute_value (attribute_value) @import)
  (#any-of? @_source "src" "href"))
